"""What one step learns from: new feedback, replayed feedback and labelled task rows. Knows the journal's tables, not the model."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from liveloop.errors import NotFound
from liveloop.tasks import FeedbackExample, LabelledExample
from liveloop.v1.events_pb2 import SOURCE_EXPERT
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.influence import Influence
from services.learner.judgements import NOBODY

_REPLAYABLE = (
    "FROM feedback INDEXED BY feedback_for_replay WHERE uses = 1"
    f" AND state IN ({State.FEEDBACK_STATE_TRAINED}, {State.FEEDBACK_STATE_SERVED})"
)
"""Learnt from once: each feedback is used at most twice online."""
_HELD_OUT = """
SELECT id FROM feedback JOIN predictions USING (prediction_id) WHERE state = ? AND feedback.judge != ? ORDER BY id DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a feedback came from."""

    traceparent: str  # W3C trace context of the call that brought it
    accepted_at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The ids that a journal row names, in the order in which they are computed, and the examples behind them."""

    new: tuple[int, ...]  # feedback that no standing row introduced before
    replayed: tuple[int, ...]  # feedback learnt from once already
    task: tuple[int, ...]  # indices into the task data
    feedback_examples: tuple[FeedbackExample, ...]  # of new, then of replayed
    task_examples: tuple[LabelledExample, ...]
    by_expert: tuple[bool, ...] = ()  # who said it, beside feedback_examples; none: no expert did
    weights: tuple[float, ...] = ()  # what its judge's standing leaves of each one's weight, in (0, 1]; none: all of it


class MicroBatches:
    """Chooses micro-batches, and builds again those that a row names."""

    def __init__(
        self, db: sqlite3.Connection, task_rows: Sequence[LabelledExample], labels: Sequence[str], influence: Influence | None = None
    ) -> None:
        """Without `influence` everybody's word weighs the same."""
        self._db = db
        self._task_rows = task_rows
        self._influence = influence
        self._label_index: Mapping[str, int] = {label: index for index, label in enumerate(labels)}

    def waiting(self) -> int:
        """Feedbacks joined and not yet learnt from."""
        found = self._db.execute("SELECT count(*) FROM feedback WHERE state = ?", (State.FEEDBACK_STATE_JOINED,)).fetchone()
        return int(found[0])

    def choose(self, *, nominal: int, limit: int, rng: random.Random) -> MicroBatch:
        """Take what waits, at most `limit`, oldest first, and beside it what was learnt from once. Never waits.

        Replays fill the step up to `nominal`, and are as many as the new ones up to that number: over time each is used twice.
        """
        rows = self._db.execute("SELECT id FROM feedback WHERE state = ? ORDER BY id LIMIT ?", (State.FEEDBACK_STATE_JOINED, limit))
        new = tuple(row[0] for row in rows)
        replayed = self._replay(max(nominal - len(new), min(len(new), nominal)), rng)
        return self.build(new, replayed, self._task(nominal, rng), self.weights(new, replayed))

    def again(self, feedback: Sequence[int], *, nominal: int, rng: random.Random) -> MicroBatch:
        """Feedback that was learnt from before, and nothing new."""
        return self.build((), feedback, self._task(nominal, rng), self.weights((), feedback))

    def weights(self, new: Sequence[int], replayed: Sequence[int]) -> tuple[float, ...]:
        """What the standing of their judges leaves of each one's weight now, in (0, 1]; empty: all of it."""
        return self._influence.weights(new, replayed) if self._influence else ()

    def build(self, new: Sequence[int], replayed: Sequence[int], task: Sequence[int], weights: Sequence[float] = ()) -> MicroBatch:
        """The micro-batch of these ids. Raises NotFound when an example is no longer kept."""
        found = [self._example(feedback) for feedback in (*new, *replayed)]
        return MicroBatch(
            tuple(new),
            tuple(replayed),
            tuple(task),
            tuple(example for example, _ in found),
            tuple(self._task_rows[index] for index in task),
            tuple(source == SOURCE_EXPERT for _, source in found),
            tuple(weights),
        )

    def traces(self, feedback: Sequence[int]) -> list[Trace]:
        """Where those of `feedback` came from that came with a call that was traced."""
        query = "SELECT traceparent, accepted_at FROM feedback WHERE id = ? AND traceparent != ''"
        found = (self._db.execute(query, (one,)).fetchone() for one in feedback)
        return [Trace(*row) for row in found if row]

    def held_out(self, limit: int) -> dict[str, FeedbackExample]:
        """The newest held-out feedbacks that somebody gave, by a name that stays theirs: a default reward says nothing about a model."""
        rows = self._db.execute(_HELD_OUT, (State.FEEDBACK_STATE_HELD_OUT, NOBODY, limit)).fetchall()
        return {f"feedback:{feedback}": self._example(feedback)[0] for (feedback,) in rows}

    def _task(self, count: int, rng: random.Random) -> tuple[int, ...]:
        return tuple(rng.sample(range(len(self._task_rows)), min(count, len(self._task_rows))))

    def _replay(self, count: int, rng: random.Random) -> tuple[int, ...]:
        """Up to `count` different feedbacks, near uniformly: the first at or after a random id (the ids have few gaps)."""
        if not count:
            return ()
        low, high = (self._db.execute(f"SELECT id {_REPLAYABLE} ORDER BY id {order} LIMIT 1").fetchone() for order in ("ASC", "DESC"))
        if low is None:
            return ()
        found: dict[int, None] = {}
        for _ in range(count):
            at = rng.randint(low[0], high[0])
            row = self._db.execute(f"SELECT id {_REPLAYABLE} AND id >= ? ORDER BY id LIMIT 1", (at,)).fetchone()
            found[row[0]] = None
        return tuple(one for one in found if self._is_kept(one))

    def kept(self, feedback: Sequence[int]) -> tuple[int, ...]:
        """Those of `feedback` whose examples are still kept, in order."""
        return tuple(one for one in feedback if self._is_kept(one))

    def _is_kept(self, feedback: int) -> bool:
        query = "SELECT 1 FROM feedback JOIN predictions USING (prediction_id) WHERE id = ?"
        return self._db.execute(query, (feedback,)).fetchone() is not None

    def _example(self, feedback: int) -> tuple[FeedbackExample, int]:
        """The example and its source; its weight is that of anybody's word."""
        row = self._db.execute(
            "SELECT text, predictions.label, propensity, signal, rating, feedback.label, source"
            " FROM feedback JOIN predictions USING (prediction_id) WHERE id = ?",
            (feedback,),
        ).fetchone()
        if row is None:
            raise NotFound(f"the example of feedback {feedback} is no longer kept")
        text, answered, propensity, signal, rating, corrected, source = row
        if signal == "correction":
            return FeedbackExample(text, self._label_index[corrected], +1, 1.0, is_correction=True), source
        strength = 2.0 * rating - 1.0 if signal == "rating" else (1.0 if signal == "up" else -1.0)
        sign = +1 if strength >= 0 else -1
        return FeedbackExample(text, self._label_index[answered], sign, abs(strength), propensity=propensity), source
