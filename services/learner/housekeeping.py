"""What a learner does now and then beside its rows: save tensors, show the live accuracy, let old things go. Takes no step."""

from __future__ import annotations

import time

from services.learner.live import LiveAccuracy
from services.learner.parts import Parts

_SAVE_ROWS, _SAVE_SECONDS = 64, 60.0
"""A restart redoes at most this much."""
_BLESSED_KEPT = 10
"""Blessed versions that stay in the stores."""
_RELEASE, CHORES = 1.0, 10.0
"""Seconds between two releases of what was read, and between two rounds of the other chores."""


class Housekeeping:
    """One turn after each of the loop's."""

    def __init__(self, parts: Parts, history: float) -> None:
        """`history`: seconds for which examples are kept."""
        self._parts = parts
        self._history = history
        self._live = LiveAccuracy(parts.journal.db)
        self._saved_row, self._saved_at = 0, time.monotonic()
        self._chores_at = 0.0
        self._released_at = 0.0

    @property
    def is_due(self) -> bool:
        """The next turn is more than a look at the clock."""
        return time.monotonic() - self._chores_at >= CHORES

    def hurry(self) -> None:
        """What is kept may have changed: the next turn has chores."""
        self._chores_at = 0.0

    def turn(self) -> None:
        """Whatever is due by now."""
        newest = self._parts.journal.next_row() - 1
        if newest - self._saved_row >= _SAVE_ROWS or (newest > self._saved_row and time.monotonic() - self._saved_at > _SAVE_SECONDS):
            self.save(wait=False)
        if time.monotonic() - self._released_at > _RELEASE:
            self._released_at = time.monotonic()
            self._parts.log.release(self._parts.journal.positions())
        if self.is_due:
            self._chores()

    def save(self, *, wait: bool) -> None:
        """Save the tensors, in the background or to the end."""
        with self._parts.journal.transaction():  # under the lease: the newest row is ours, and these tensors are what it left
            row = self._parts.journal.last()
        if row is not None:
            self._parts.tensors.save(row.row, self._parts.trainer.tensors(), wait=wait)
        self._saved_row, self._saved_at = self._parts.journal.next_row() - 1, time.monotonic()

    def _chores(self) -> None:
        parts = self._parts
        self._chores_at = time.monotonic()
        parts.publication.check()
        self._live.refresh()
        if parts.journal.expire(parts.joiner, parts.log.partitions, self._history):
            self._chores_at -= CHORES - _RELEASE
        kept = parts.journal.kept(_BLESSED_KEPT, time.time() - self._history)
        parts.publication.publisher.collect([*kept, *parts.examiner.needs, parts.publication.candidate])
