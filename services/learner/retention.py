"""What goes from the join store, and when: bounded work a round, whatever has come in. Knows the journal's tables; knows no event.

Each round looks at the next few thousand rows behind a cursor; the cursors are in memory, and a restart begins with the oldest rows.
"""

from __future__ import annotations

import sqlite3
import uuid
from dataclasses import dataclass

from liveloop.v1.events_pb2 import CHANNEL_HOLDOUT
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.rows import STEPS

ROUND = 5000
"""Rows of a table looked at in one round: some 10 ms."""
_WORK_KEPT = 3600.0
"""Seconds for which pods' reports of what they computed stay, and pods that fell silent: longer than they count as evidence."""

_PENDING = "SELECT id, prediction_id, accepted_at FROM feedback WHERE state = ? AND id > ? ORDER BY id LIMIT ?"
_UNJUDGED = """
SELECT prediction_id, created_at, NOT not_shown AND channel != ? FROM predictions WHERE prediction_id >= ? AND prediction_id < ?
AND NOT EXISTS (SELECT 1 FROM feedback WHERE feedback.prediction_id = predictions.prediction_id) ORDER BY prediction_id LIMIT ?
"""
_IN_USE = "SELECT 1 FROM feedback WHERE feedback.prediction_id = ? AND (state = ? OR last_row >= ?)"
_PREDICTIONS = "SELECT prediction_id FROM predictions WHERE prediction_id > ? AND prediction_id < ? ORDER BY prediction_id LIMIT ?"
_LABELLED = """
SELECT created_at, prediction_id FROM predictions WHERE prediction_id >= 'example:' AND (created_at, prediction_id) > (?, ?)
AND created_at < ? ORDER BY created_at, prediction_id LIMIT ?
"""
_SETTLED = """
DELETE FROM feedback WHERE id > ? AND id <= ? AND accepted_at < ? AND last_row < ? AND state NOT IN (?, ?, ?)
AND NOT EXISTS (SELECT 1 FROM predictions WHERE predictions.prediction_id = feedback.prediction_id)
"""
_UNSETTLED = (State.FEEDBACK_STATE_PENDING, State.FEEDBACK_STATE_JOINED, State.FEEDBACK_STATE_QUARANTINED)


def time_of(prediction_id: str) -> float:
    """When a prediction was made, by its UUIDv7 (RFC 9562, 48 bits of Unix milliseconds); 0 for an id that is none."""
    try:
        return (uuid.UUID(prediction_id).int >> 80) / 1000
    except ValueError:
        return 0.0


def first_id(seconds: float) -> str:
    """The least UUIDv7 of that time: ids are in order of time, and so is the table of predictions."""
    return str(uuid.UUID(int=max(0, int(seconds * 1000)) << 80))


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A prediction of which nobody said anything within the window."""

    prediction_id: str
    created_at: float
    may_teach: bool  # somebody may have seen it, and whoever did is not held out


class Retention:
    """Finds what has had its time, inside a transaction of its caller's. Methods that may leave some for the next round say so."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._pending = 0  # the last id looked at
        self._frontier = ""  # every unjudged prediction before it was found
        self._predictions = ""
        self._labelled = (0.0, "")
        self._feedback = 0

    def came(self, prediction_id: str) -> None:
        """A prediction was stored, perhaps a late one."""
        self._frontier = min(self._frontier, prediction_id)

    def orphans(self, limit: float) -> list[tuple[int, str, float]]:
        """Waiting feedback (id, prediction, accepted at) whose prediction is of before `limit`, Unix seconds, or was never ours."""
        found = self._db.execute(_PENDING, (State.FEEDBACK_STATE_PENDING, self._pending, ROUND)).fetchall()
        self._pending = found[-1][0] if len(found) == ROUND else 0
        return [one for one in found if time_of(one[1]) < limit]

    def unjudged(self, limit: float) -> list[Unjudged]:
        """At most ROUND predictions of before `limit`, Unix seconds, without any feedback: the caller judges or removes each."""
        until = first_id(limit)
        found = [Unjudged(*row) for row in self._db.execute(_UNJUDGED, (CHANNEL_HOLDOUT, self._frontier, until, ROUND))]
        self._frontier = found[-1].prediction_id if len(found) == ROUND else max(self._frontier, until)
        return found

    def remove(self, predictions: list[str]) -> None:
        """Let predictions go."""
        self._db.executemany("DELETE FROM predictions WHERE prediction_id = ?", [(one,) for one in predictions])

    def forget_reports(self, read_until: float) -> None:
        """Let go what pods reported long before `read_until`."""
        for table in ("work", "pods"):
            self._db.execute(f"DELETE FROM {table} WHERE reported_at < ?", (read_until - _WORK_KEPT,))  # noqa: S608  no input in it

    def old_examples(self, before: float) -> list[str]:
        """Judged predictions and labelled rows of before `before` that no feedback waits to train on and no row made since names."""
        oldest, found = self._first_row(before), [*self._old_predictions(before), *self._old_rows(before)]
        return [one for one in found if not self._db.execute(_IN_USE, (one, State.FEEDBACK_STATE_JOINED, oldest)).fetchone()]

    def _old_predictions(self, before: float) -> list[str]:
        found = [one for (one,) in self._db.execute(_PREDICTIONS, (self._predictions, first_id(before), ROUND))]
        self._predictions = found[-1] if len(found) == ROUND else ""
        return found

    def _old_rows(self, before: float) -> list[str]:
        found: list[tuple[float, str]] = self._db.execute(_LABELLED, (*self._labelled, before, ROUND)).fetchall()
        self._labelled = found[-1] if len(found) == ROUND else (0.0, "")
        return [one for _, one in found]

    def sweep_feedback(self, before: float) -> None:
        """Let go comments of before `before`, and settled feedback whose example is gone and that no row made since names."""
        block = self._db.execute(
            "SELECT id, accepted_at FROM feedback WHERE id > ? ORDER BY id LIMIT ?", (self._feedback, ROUND)
        ).fetchall()
        if not block:
            self._feedback = 0
            return
        first, last = self._feedback, block[-1][0]
        if any(accepted_at < before for _, accepted_at in block):
            self._db.execute(
                "UPDATE feedback SET comment = '' WHERE id > ? AND id <= ? AND accepted_at < ? AND comment != ''", (first, last, before)
            )
            self._db.execute(_SETTLED, (first, last, before, self._first_row(before), *_UNSETTLED))
        reached_the_young = block[-1][1] >= before
        self._feedback = 0 if reached_the_young or len(block) < ROUND else last

    def _first_row(self, since: float) -> int:
        """The first step taken since then; a number after all rows where there was none."""
        query = "SELECT row FROM rows WHERE kind = ? AND created_at >= ? ORDER BY created_at, row LIMIT 1"
        found = [self._db.execute(query, (kind, since)).fetchone() for kind in STEPS]
        return min((row for (row,) in filter(None, found)), default=1 << 62)
