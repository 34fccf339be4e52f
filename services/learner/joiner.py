"""What becomes of a feedback, whatever the order in which events arrive. Knows the journal's tables; knows no log, no model.

The log is at least once and its partitions are read at their own pace, so every rule here is a function of the set of events, never of
their order: an event read twice changes nothing, and of one judge's judgements of one prediction the greatest (accepted_at, feedback_id)
counts. What can no longer change is final: nothing that comes later brings it back.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable

from blake3 import blake3

from liveloop.times import unix_seconds
from liveloop.v1.events_pb2 import CHANNEL_BLESSED, CHANNEL_HOLDOUT, Event, ExampleEvent, FeedbackEvent, PodReport, PredictionEvent
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.judgements import INSERT, NOBODY, Judgement, of_example, of_feedback, of_silence
from services.learner.retention import ROUND, Retention, time_of

HELD_OUT_SHARE = 10
"""One prediction in this many is kept to check the model with."""

LIVE = (
    State.FEEDBACK_STATE_JOINED,
    State.FEEDBACK_STATE_TRAINED,
    State.FEEDBACK_STATE_SERVED,
    State.FEEDBACK_STATE_QUARANTINED,
    State.FEEDBACK_STATE_HELD_OUT,
)
FINAL = (State.FEEDBACK_STATE_EXPIRED, State.FEEDBACK_STATE_REJECTED)
"""Given up, or refused: also by an operator, for whom a dropped judgement remains the last word of its judge."""
_ORPHAN = "its prediction was not read within the feedback window"
_ASKER_HELD_OUT = "its asker is one of those held out, whom version 1 answers, to show what the others gain from learning"
_NOT_PENDING = tuple(state for state in State.values() if state != State.FEEDBACK_STATE_PENDING)
_NEW_PREDICTION = "INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_JUDGEMENTS = """
SELECT id, judge, state, signal, feedback.label, accepted_at, created_at, predictions.label, channel
FROM predictions JOIN feedback USING (prediction_id) WHERE prediction_id = ? AND judge IN (?, ?)
ORDER BY accepted_at DESC, feedback_id DESC
"""
_JUDGED_BEFORE = """
SELECT DISTINCT prediction_id, judge FROM json_each(?) AS page JOIN feedback ON feedback.prediction_id = page.value
"""


def is_held_out(prediction_id: str) -> bool:
    """Feedback on this prediction is never trained on. A function of the id alone, independent of its partition."""
    return int.from_bytes(blake3(prediction_id.encode()).digest()[4:8], "big") % HELD_OUT_SHARE == 0


class Joiner:
    """Applies events to the join store, inside a transaction of its caller's."""

    def __init__(self, db: sqlite3.Connection, *, labels: Iterable[str], window: float, default_reward: float | None = None) -> None:
        """`window` is in seconds; `default_reward`, in [0, 1], is the rating of what nobody judged within it."""
        self._db = db
        self._labels = frozenset(labels)
        self._window = window
        self._default_reward = default_reward
        self._retention = Retention(db)
        self._arrived: list[tuple[str, str, str, int, float, float, float, int, bytes, bool]] = []  # predictions since `resolve`
        self._excluded: frozenset[bytes] | None = None  # who is to be forgotten; None: not read since `resolve`
        self._unresolved: Counter[tuple[str, bytes]] = Counter()  # (prediction, judge) of the events since `resolve`: new feedbacks
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
        if kind == "example":
            return self._take_example(event.example)
        return 0.0

    def resolve(self) -> None:
        """Settle every judgement that the events taken speak of: once a page, so that many by one judge cost no more than one."""
        self._store_arrived()
        for (prediction_id, judge), new in self._unresolved.items():
            if not self._resolve(prediction_id, judge):
                self.outcomes[State.FEEDBACK_STATE_PENDING] += new
        self._unresolved.clear()
        self._excluded = None

    def expire(self, read_until: float) -> bool:
        """What the window decides: feedback without a prediction expires, predictions that nobody judged get the default reward or leave.

        `read_until`: every partition has been read up to this time, Unix seconds. A round of it; True where there is more to do.
        """
        limit = read_until - self._window
        self._retention.forget_reports(read_until)
        for feedback, prediction_id, accepted_at in self._retention.orphans(limit):
            made_at = time_of(prediction_id)
            age = accepted_at - made_at
            self._set(feedback, State.FEEDBACK_STATE_EXPIRED, self._late(age) if made_at and age > self._window else _ORPHAN)
        unjudged = self._retention.unjudged(limit)
        rewarded = [one for one in unjudged if one.may_teach] if self._default_reward is not None else []
        for one in rewarded:
            self._add(of_silence(one.prediction_id, one.created_at + self._window, self._default_reward))
        self.resolve()
        self._retention.remove(sorted({one.prediction_id for one in unjudged} - {one.prediction_id for one in rewarded}))
        return len(unjudged) == ROUND

    def forget(self, before: float) -> None:
        """Remove examples, comments and settled feedback of before `before`, Unix seconds, that no step since then learnt from.

        What still waits for its step stays; what is set aside expires with its example. A round of it.
        """
        gone = self._retention.old_examples(before)
        for one in gone:
            quarantined = self._db.execute(
                "SELECT id FROM feedback WHERE prediction_id = ? AND state = ?", (one, State.FEEDBACK_STATE_QUARANTINED)
            ).fetchall()
            for (feedback,) in quarantined:
                self._set(feedback, State.FEEDBACK_STATE_EXPIRED, "its example is no longer kept")
        self._retention.remove(gone)
        self._retention.sweep_feedback(before)

    def _take_prediction(self, prediction: PredictionEvent) -> float:
        created_at = unix_seconds(prediction.created_at)
        if self._is_excluded(prediction.asker):
            return created_at
        self._arrived.append(
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
            )
        )
        return created_at

    def _take_feedback(self, event: FeedbackEvent) -> float:
        if not self._is_excluded(event.judge):
            self._add(of_feedback(event))
        return unix_seconds(event.accepted_at)

    def _take_example(self, example: ExampleEvent) -> float:
        """A labelled row: a correction whose prediction is the row itself, of the time at which it was accepted."""
        one = of_example(example)
        if not self._is_excluded(example.judge):
            text = example.input.text
            self._arrived.append((one.prediction_id, text, example.label, 0, 1.0, 1.0, one.accepted_at, 0, one.judge, False))
            self._add(one)
        return one.accepted_at

    def _add(self, one: Judgement) -> None:
        """Store a judgement that was not read before."""
        added = self._db.execute(INSERT, (*one, State.FEEDBACK_STATE_PENDING))
        if added.rowcount:
            self._unresolved[one.prediction_id, one.judge] += 1

    def _is_excluded(self, judge: bytes) -> bool:
        """This user is to be forgotten."""
        if self._excluded is None:
            self._excluded = frozenset(one for (one,) in self._db.execute("SELECT judge FROM exclusions"))
        return judge in self._excluded

    def _store_arrived(self) -> None:
        """Store the page's predictions at once, and find what was said of them before they came."""
        if not self._arrived:
            return
        self._db.executemany(_NEW_PREDICTION, self._arrived)
        names = [row[0] for row in self._arrived]
        self._retention.came(min(names))
        for judged in self._db.execute(_JUDGED_BEFORE, (json.dumps(names),)).fetchall():
            self._unresolved[judged] += 0
        self._arrived.clear()

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

    def _resolve(self, prediction_id: str, judge: bytes) -> bool:
        """Settle all judgements of one prediction by one judge; False without the prediction: they wait."""
        found = self._db.execute(_JUDGEMENTS, (prediction_id, judge, NOBODY)).fetchall()
        said: int | None = None  # what a later judgement makes of those before it
        for feedback, by, state, signal, label, accepted_at, created_at, answered, channel in found:
            refusal = self._refusal(signal, label if signal == "correction" else answered, accepted_at - created_at if by else 0.0)
            outcome: tuple[int, str] | None = None
            if by != judge:
                outcome = (State.FEEDBACK_STATE_SUPERSEDED, "somebody judged it after all")
            elif refusal:
                outcome = refusal
            elif signal == "retraction" or said == State.FEEDBACK_STATE_RETRACTED:
                said = State.FEEDBACK_STATE_RETRACTED
                outcome = (said, "taken back")
            elif said is not None:
                outcome = (said, "the same judge said something later")
            else:
                said = State.FEEDBACK_STATE_SUPERSEDED
                if state not in (LIVE if by else _NOT_PENDING):  # a default reward that was superseded stays so
                    why = _ASKER_HELD_OUT if channel == CHANNEL_HOLDOUT else ""
                    outcome = (State.FEEDBACK_STATE_HELD_OUT if why or is_held_out(prediction_id) else State.FEEDBACK_STATE_JOINED, why)
            if outcome and state not in FINAL:
                self._set(feedback, *outcome, was=state)
        return bool(found)

    def _refusal(self, signal: str, label: str | None, age: float) -> tuple[int, str] | None:
        """Why a judgement can never be used: a function of what was sent alone."""
        if age > self._window:
            return State.FEEDBACK_STATE_EXPIRED, self._late(age)
        if signal != "retraction" and label not in self._labels:
            return State.FEEDBACK_STATE_REJECTED, f"the model has no label {label!r}"
        if not signal:
            return State.FEEDBACK_STATE_REJECTED, "it carries no signal"
        return None

    def _late(self, age: float) -> str:
        return f"accepted {age:.0f} s after its prediction; the feedback window is {self._window:.0f} s"

    def _set(self, feedback: int, state: int, reason: str, *, was: int | None = None) -> None:
        if state != was:
            self._db.execute("UPDATE feedback SET state = ?, reason = ? WHERE id = ?", (state, reason, feedback))
            self.outcomes[state] += 1
