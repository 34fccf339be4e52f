"""What becomes of a feedback, whatever the order in which events arrive. Knows the journal's tables; knows no log, no model.

The log is at least once and its partitions are read at their own pace, so every rule here is a function of the set of events, never of
their order: an event read twice changes nothing, and of one judge's judgements of one prediction the greatest (accepted_at, feedback_id)
counts.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterable

from blake3 import blake3

from liveloop.times import unix_seconds
from liveloop.v1.events_pb2 import CHANNEL_BLESSED, SOURCE_HUMAN, THUMB_UP, Event, FeedbackEvent, PodReport, PredictionEvent
from liveloop.v1.learner_pb2 import FeedbackState as State

HELD_OUT_SHARE = 10
"""One prediction in this many is kept to check the model with."""

_FORGOTTEN = 5000
"""Predictions removed at once at the most: some 10 ms, and more than come between two rounds."""
_WORK_KEPT = 3600.0
"""Seconds for which pods' reports of what they computed stay: longer than they count as evidence."""
_RESOLVED = (State.FEEDBACK_STATE_EXPIRED, State.FEEDBACK_STATE_REJECTED)
LIVE = (
    State.FEEDBACK_STATE_JOINED,
    State.FEEDBACK_STATE_TRAINED,
    State.FEEDBACK_STATE_SERVED,
    State.FEEDBACK_STATE_QUARANTINED,
    State.FEEDBACK_STATE_HELD_OUT,
)


def is_held_out(prediction_id: str) -> bool:
    """Feedback on this prediction is never trained on. A function of the id alone, independent of its partition."""
    return int.from_bytes(blake3(prediction_id.encode()).digest()[4:8], "big") % HELD_OUT_SHARE == 0


def time_of(prediction_id: str) -> float:
    """When a prediction was made, by its UUIDv7 (RFC 9562, 48 bits of Unix milliseconds); 0 for an id that is none."""
    try:
        return (uuid.UUID(prediction_id).int >> 80) / 1000
    except ValueError:
        return 0.0


def _first_id(seconds: float) -> str:
    """The least UUIDv7 of that time: ids are in order of time, and so is the table of predictions."""
    return str(uuid.UUID(int=max(0, int(seconds * 1000)) << 80))


class Joiner:
    """Applies events to the join store, inside a transaction of its caller's."""

    def __init__(self, db: sqlite3.Connection, *, labels: Iterable[str], window: float) -> None:
        self._db = db
        self._labels = frozenset(labels)
        self._window = window
        self._unresolved: set[tuple[str, bytes]] = set()  # (prediction, judge) that the events taken since `resolve` speak of
        self.outcomes: Counter[int] = Counter()  # feedbacks that reached a state since the caller last cleared it

    def take(self, event: Event) -> float:
        """Apply one event and return its time, Unix seconds; `resolve` after the last one of a page."""
        kind = event.WhichOneof("event")
        if kind == "prediction":
            return self._take_prediction(event.prediction)
        if kind == "feedback":
            return self._take_feedback(event.feedback)
        if kind == "pod_report":
            return self._take_report(event.pod_report)
        return 0.0

    def resolve(self) -> None:
        """Settle every judgement that the events taken speak of: once a page, so that many by one judge cost no more than one."""
        for prediction_id, judge in self._unresolved:
            self._resolve(prediction_id, judge)
        self._unresolved.clear()

    def expire(self, read_until: float) -> None:
        """Give up on feedback whose prediction never came; forget old work, and predictions nobody judged once the log was read past them.

        `read_until`: every partition has been read up to this time, Unix seconds.
        """
        limit = read_until - self._window
        self._db.execute("DELETE FROM work WHERE reported_at < ?", (read_until - _WORK_KEPT,))
        waiting = self._db.execute("SELECT id, prediction_id FROM feedback WHERE state = ?", (State.FEEDBACK_STATE_PENDING,)).fetchall()
        for feedback, prediction_id in waiting:
            if time_of(prediction_id) < limit:
                self._set(feedback, State.FEEDBACK_STATE_EXPIRED, "its prediction never arrived")
        self._db.execute(
            "DELETE FROM predictions WHERE prediction_id IN (SELECT prediction_id FROM predictions WHERE prediction_id < ?"
            " AND NOT EXISTS (SELECT 1 FROM feedback WHERE feedback.prediction_id = predictions.prediction_id) LIMIT ?)",
            (_first_id(limit), _FORGOTTEN),
        )

    def forget(self, before: float) -> None:
        """Remove the examples of predictions older than `before`, Unix seconds, unless feedback on them still waits for its step."""
        self._db.execute(
            "DELETE FROM predictions WHERE prediction_id IN (SELECT prediction_id FROM predictions WHERE prediction_id < ? AND NOT EXISTS"
            " (SELECT 1 FROM feedback WHERE feedback.prediction_id = predictions.prediction_id AND state = ?) LIMIT ?)",
            (_first_id(before), State.FEEDBACK_STATE_JOINED, _FORGOTTEN),
        )

    def _take_prediction(self, prediction: PredictionEvent) -> float:
        created_at = unix_seconds(prediction.created_at)
        added = self._db.execute(
            "INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                prediction.prediction_id,
                prediction.input.text,
                prediction.label,
                prediction.version,
                prediction.score,
                prediction.propensity,
                created_at,
                prediction.channel,
                prediction.asker,
                prediction.not_shown,
            ),
        )
        if added.rowcount:
            judges = self._db.execute("SELECT DISTINCT judge FROM feedback WHERE prediction_id = ?", (prediction.prediction_id,)).fetchall()
            self._unresolved.update((prediction.prediction_id, judge) for (judge,) in judges)
        return created_at

    def _take_feedback(self, event: FeedbackEvent) -> float:
        feedback, accepted_at = event.feedback, unix_seconds(event.accepted_at)
        signal: str = feedback.WhichOneof("signal") or ""
        if signal == "thumb":
            signal = "up" if feedback.thumb == THUMB_UP else "down"
        added = self._db.execute(
            "INSERT OR IGNORE INTO feedback"
            " (prediction_id, feedback_id, judge, accepted_at, signal, rating, label, source, client, reasons, comment,"
            " traceparent, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                feedback.prediction_id,
                feedback.feedback_id,
                event.judge,
                accepted_at,
                signal,
                feedback.rating if signal == "rating" else None,
                feedback.correction.label if signal == "correction" else None,
                feedback.source or SOURCE_HUMAN,
                event.client,
                json.dumps(list(feedback.reasons)),
                feedback.comment,
                event.traceparent,
                State.FEEDBACK_STATE_PENDING,
            ),
        )
        if added.rowcount:
            self._unresolved.add((feedback.prediction_id, event.judge))
        return accepted_at

    def _take_report(self, report: PodReport) -> float:
        reported_at, flipped_at = unix_seconds(report.reported_at), unix_seconds(report.flipped_at)
        blessed = next((done.version for done in report.channels if done.channel == CHANNEL_BLESSED), 0)
        self._db.execute(
            "INSERT INTO pods VALUES (?, ?, ?, ?) ON CONFLICT (pod) DO UPDATE SET version = excluded.version, blessed = excluded.blessed,"
            " reported_at = excluded.reported_at WHERE excluded.reported_at >= reported_at",
            (report.pod, report.version, blessed, reported_at),
        )
        served = self._db.execute(
            "UPDATE feedback SET state = ?, served_at = ? WHERE state = ? AND version <= ?",
            (State.FEEDBACK_STATE_SERVED, flipped_at, State.FEEDBACK_STATE_TRAINED, report.version),
        )
        self.outcomes[State.FEEDBACK_STATE_SERVED] += served.rowcount
        if blessed:  # there is a canary
            self._db.executemany(
                "INSERT OR IGNORE INTO work VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (report.pod, reported_at, done.channel, done.version, done.answered, done.failed, done.batches, done.seconds)
                    for done in report.channels
                    if done.answered or done.failed
                ],
            )
        return reported_at

    def _resolve(self, prediction_id: str, judge: bytes) -> None:
        """Settle all judgements of one prediction by one judge; without the prediction they wait."""
        found = self._db.execute("SELECT created_at, label FROM predictions WHERE prediction_id = ?", (prediction_id,)).fetchone()
        if found is None:
            return
        created_at, answered = found
        judgements = self._db.execute(
            "SELECT id, state, signal, label, accepted_at FROM feedback WHERE prediction_id = ? AND judge = ?"
            " ORDER BY accepted_at DESC, feedback_id DESC",
            (prediction_id, judge),
        ).fetchall()
        superseded_by: int | None = None
        for feedback, state, signal, label, accepted_at in judgements:
            if state in _RESOLVED:
                continue
            refusal = self._refusal(signal, label if signal == "correction" else answered, accepted_at - created_at)
            if refusal:
                self._set(feedback, *refusal)
            elif signal == "retraction" or superseded_by == State.FEEDBACK_STATE_RETRACTED:
                superseded_by = State.FEEDBACK_STATE_RETRACTED
                self._set(feedback, State.FEEDBACK_STATE_RETRACTED, "taken back", was=state)
            elif superseded_by is not None:
                self._set(feedback, State.FEEDBACK_STATE_SUPERSEDED, "the same judge said something later", was=state)
            else:
                superseded_by = State.FEEDBACK_STATE_SUPERSEDED
                if state not in LIVE:
                    held_out = is_held_out(prediction_id)
                    self._set(feedback, State.FEEDBACK_STATE_HELD_OUT if held_out else State.FEEDBACK_STATE_JOINED, "")

    def _refusal(self, signal: str, label: str | None, age: float) -> tuple[int, str] | None:
        if age > self._window:
            return State.FEEDBACK_STATE_EXPIRED, f"accepted {age:.0f} s after its prediction; the feedback window is {self._window:.0f} s"
        if label not in self._labels:
            return State.FEEDBACK_STATE_REJECTED, f"the model has no label {label!r}"
        if not signal:
            return State.FEEDBACK_STATE_REJECTED, "it carries no signal"
        return None

    def _set(self, feedback: int, state: int, reason: str, *, was: int | None = None) -> None:
        if state != was:
            self._db.execute("UPDATE feedback SET state = ?, reason = ? WHERE id = ?", (state, reason, feedback))
            self.outcomes[state] += 1
