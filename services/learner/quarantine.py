"""Feedback that was set aside, and the two ways out of there. Knows the journal's tables; decides nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from liveloop import telemetry
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.journal import Journal
from services.learner.judgements import state_name
from services.learner.trainer import Recipe

Name = tuple[str, str]
"""A feedback's prediction and its own id."""

_WITH_EXAMPLE = "SELECT 1 FROM feedback JOIN predictions USING (prediction_id) WHERE id = ?"


class Quarantine:
    """Lets quarantined feedback go, each time in one transaction with the note of it."""

    def __init__(self, journal: Journal, recipe: Recipe) -> None:
        self._journal = journal
        self._recipe = recipe

    def release(self, names: Sequence[Name], *, who: str, why: str) -> int:
        """Let feedback train in a new row, all of it where none is named; how many. Where the example is gone it expires instead."""
        with self._journal.transaction() as db:
            found = _find(db, names)
            kept = [one for one in found if db.execute(_WITH_EXAMPLE, (one,)).fetchone()]
            gone = sorted(set(found) - set(kept))
            _move(db, kept, State.FEEDBACK_STATE_JOINED, _said("released", who, why))
            db.executemany("UPDATE feedback SET row = 0, version = 0, served_at = NULL WHERE id = ?", [(one,) for one in kept])
            _move(db, gone, State.FEEDBACK_STATE_EXPIRED, "its example is no longer kept")
            if found:
                self._journal.note("release", self._recipe, who=who, why=why, feedback=kept, expired=gone)
        return len(kept)

    def drop(self, names: Sequence[Name], *, who: str, why: str) -> int:
        """Reject feedback for good, all of it where none is named; how many."""
        with self._journal.transaction() as db:
            found = _find(db, names)
            _move(db, found, State.FEEDBACK_STATE_REJECTED, _said("rejected", who, why))
            if found:
                self._journal.note("drop", self._recipe, who=who, why=why, feedback=found)
        return len(found)


def _find(db: sqlite3.Connection, names: Sequence[Name]) -> list[int]:
    """Those of `names` that are quarantined; without names all that are."""
    query = "SELECT id FROM feedback WHERE state = ?"
    state = State.FEEDBACK_STATE_QUARANTINED
    if not names:
        return [one for (one,) in db.execute(f"{query} ORDER BY id", (state,))]
    found = (db.execute(f"{query} AND prediction_id = ? AND feedback_id = ?", (state, *name)).fetchone() for name in names)
    return sorted({one[0] for one in found if one})


def _move(db: sqlite3.Connection, feedback: Sequence[int], state: State.ValueType, reason: str) -> None:
    db.executemany("UPDATE feedback SET state = ?, reason = ? WHERE id = ?", [(state, reason, one) for one in feedback])
    telemetry.counter("feedback_outcomes_total").labels(state_name(state)).inc(len(feedback))


def _said(what: str, who: str, why: str) -> str:
    return f"{what} by {who}: {why}" if why else f"{what} by {who}"
