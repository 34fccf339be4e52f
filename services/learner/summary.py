"""How much feedback is in each state, which reasons people gave, and what it says of the answers. Knows the journal; writes nothing."""

from __future__ import annotations

import sqlite3

from liveloop.v1.learner_pb2 import Count, GetFeedbackSummaryResponse, Interval, LiveSlice
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.intervals import Estimate
from services.learner.judgements import state_name
from services.learner.live import said, slices, uplift

_REASONS_LISTED = 100
_STATES = "SELECT state, count(*) FROM feedback GROUP BY state"
_SIGNALS = "SELECT signal, count(*) FROM feedback WHERE signal != '' GROUP BY signal ORDER BY count(*) DESC, signal"
_REASONS = """
SELECT reasons.value, count(*) FROM feedback, json_each(feedback.reasons) AS reasons
WHERE feedback.reasons != '[]' AND state NOT IN (?, ?) GROUP BY reasons.value ORDER BY count(*) DESC, reasons.value LIMIT ?
"""
"""What was taken back counts no more."""


def summary(db: sqlite3.Connection) -> GetFeedbackSummaryResponse:
    """Counted over all feedback that is kept: a scan of the table, about a second for a million."""
    judgements = said(db)
    gained = uplift(judgements)
    taken_back = (State.FEEDBACK_STATE_SUPERSEDED, State.FEEDBACK_STATE_RETRACTED)
    return GetFeedbackSummaryResponse(
        states=[Count(name=state_name(state), count=count) for state, count in db.execute(_STATES)],
        signals=[Count(name=name, count=count) for name, count in db.execute(_SIGNALS)],
        reasons=[Count(name=name, count=count) for name, count in db.execute(_REASONS, (*taken_back, _REASONS_LISTED))],
        live=[
            LiveSlice(name=one.name, judged=one.judged, judges=one.judges, accuracy=_interval(one.accuracy)) for one in slices(judgements)
        ],
        holdout_uplift=None if gained is None else _interval(gained),
    )


def _interval(found: Estimate) -> Interval:
    return Interval(value=found.value, low=found.low, high=found.high)
