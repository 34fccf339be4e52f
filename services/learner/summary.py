"""How much feedback is in each state, and which reasons people gave. Knows the journal's tables; writes nothing."""

from __future__ import annotations

import sqlite3

from liveloop.v1.learner_pb2 import Count, GetFeedbackSummaryResponse
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.judgements import state_name

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
    taken_back = (State.FEEDBACK_STATE_SUPERSEDED, State.FEEDBACK_STATE_RETRACTED)
    return GetFeedbackSummaryResponse(
        states=[Count(name=state_name(state), count=count) for state, count in db.execute(_STATES)],
        signals=[Count(name=name, count=count) for name, count in db.execute(_SIGNALS)],
        reasons=[Count(name=name, count=count) for name, count in db.execute(_REASONS, (*taken_back, _REASONS_LISTED))],
    )
