"""When the stream is quiet: once more over all stored feedback, in steps that grow smaller. Knows one table; takes no step itself.

A pass takes every feedback that was learnt from and took part in fewer than two of them, each once, in a random order; its learning rate
falls in a straight line to nothing, so that it ends in the middle of what its steps swing around. New feedback ends a pass at once, and
so does a rollback; the next quiet begins another over what is left. What a rollback undid stays counted: feedback that led nowhere good
is not drilled a third time, and the undone rows may stand again.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable

from liveloop import telemetry
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.micro_batch import MicroBatch, MicroBatches

PASSES = 2
"""Of each feedback, for ever: what two epochs more do not teach, a third makes a model know by heart."""
ENOUGH = 64
"""Feedbacks below which no pass begins: a lone thumb is not drilled."""
_WIDTH = 2
"""Feedbacks in a row for each task row in it, as in a full step with its replays."""
_LEFT = f"""
FROM feedback INDEXED BY feedback_to_consolidate
WHERE consolidations < {PASSES} AND state IN ({State.FEEDBACK_STATE_TRAINED}, {State.FEEDBACK_STATE_SERVED})
AND EXISTS (SELECT 1 FROM predictions WHERE predictions.prediction_id = feedback.prediction_id)
"""  # noqa: S608  no input in it
_COUNT = f"SELECT count(*) FROM (SELECT 1 {_LEFT} LIMIT {ENOUGH})"  # noqa: S608
_IDS = f"SELECT id {_LEFT} ORDER BY id"
_IS_LEFT = f"SELECT 1 {_LEFT} AND id = ?"

_log = telemetry.logger(part="consolidation")


class Consolidation:
    """At most one pass at a time, in memory: a restart is an interruption like any other."""

    def __init__(self, db: sqlite3.Connection, batches: MicroBatches, after: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`after`: seconds without new feedback after which a pass may begin; `clock` counts them."""
        self._db = db
        self._batches = batches
        self._after = after
        self._clock = clock
        self._quiet_since = clock()
        self._gave_up = False
        self._parts: list[list[int]] = []  # the rows to come, the next one last
        self._rows = 0  # of the pass
        self._rng = random.Random()

    @property
    def is_under_way(self) -> bool:
        """A pass has rows left."""
        return bool(self._parts)

    @property
    def is_due(self) -> bool:
        """It has been quiet for long enough, and there is enough to consolidate."""
        if self._gave_up or self._clock() - self._quiet_since < self._after:
            return False
        found = self._db.execute(_COUNT).fetchone()
        return int(found[0]) >= ENOUGH

    def learnt(self) -> None:
        """New feedback was learnt from: the quiet begins anew."""
        self._quiet_since, self._gave_up = self._clock(), False
        self.end()

    def end(self) -> None:
        """Drop what is left of a pass."""
        self._parts = []

    def give_up(self) -> None:
        """A row was refused, or rows were undone: no pass more before new feedback was learnt from."""
        self._gave_up = True
        self.end()

    def begin(self, seed: int, *, micro_batch: int) -> None:
        """Plan a pass; the same seed over the same feedback is the same pass."""
        self._rng = random.Random(seed)
        found = [one for (one,) in self._db.execute(_IDS)]
        self._rng.shuffle(found)
        width = _WIDTH * micro_batch
        self._parts = [found[start : start + width] for start in range(0, len(found), width)][::-1]
        self._rows = len(self._parts)
        _log.info("consolidating", feedback=len(found), rows=self._rows)

    def next(self, *, micro_batch: int) -> tuple[MicroBatch, float]:
        """The next row of the pass under way, without what was taken back since it began, and the factor on its learning rate."""
        rate = len(self._parts) / self._rows
        part = [one for one in self._parts.pop() if self._is_left(one)]
        return self._batches.again(part, nominal=micro_batch, rng=self._rng), rate

    def _is_left(self, feedback: int) -> bool:
        return self._db.execute(_IS_LEFT, (feedback,)).fetchone() is not None
