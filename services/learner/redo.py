"""From the journal back to the tensors: one function for a restart, a rebuild and the proof of a version. Knows no log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import torch

from liveloop.errors import LiveloopError, NotFound
from liveloop.weights.state import FlatState
from services.learner.micro_batch import MicroBatch, MicroBatches
from services.learner.rows import STEPS, JournalRows, Row
from services.learner.trainer import Trainer

Load = Callable[[int], np.ndarray]
"""The served bits of a version that is still kept."""
Cached = tuple[int, dict[str, torch.Tensor]]
"""The row after which a set of tensors was taken, and the set."""


class Unequal(LiveloopError):
    """A redone row left another state than the one it was journalled with: another processor, thread count or library."""


class Replay:
    """Brings `trainer` from one row's state to the next, from `cached` tensors or the beginning; each row is yielded once it is redone.

    Rows before a rebuild are redone as the rebuild redid them: without the examples that are gone, and with resets to versions as they are
    here, not as they were published.
    """

    def __init__(
        self,
        journal: JournalRows,
        trainer: Trainer,
        batches: MicroBatches,
        load: Load,
        *,
        cached: Cached | None = None,
        until: int | None = None,
        without: Collection[int] | None = None,
    ) -> None:
        """`until`: the last version redone. `without`: this is a rebuild, which leaves these feedbacks out too."""
        self._journal, self._trainer, self._batches, self._load = journal, trainer, batches, load
        self._start, self._tensors = cached or (0, {})
        after = self._start - 1 if self._tensors else 0
        self.rows = [row for row in journal.since(after) if until is None or (row.version or 0) <= until]
        rebuilds = [row for row in self.rows if row.is_rebuild and row.row > self._start]
        self._without = {one for row in rebuilds for one in row.body["without"]}.union(without or ())
        self._left_out_before = max((row.row for row in (rebuilds if without is None else self.rows)), default=-1)
        self._left_out_before += without is not None
        self._targets = {row.body["to"] for row in self.rows if row.kind == "reset" and row.row < self._left_out_before}
        self._redone: dict[int, np.ndarray] = {}  # those of them that were made on the way
        self.left_out = 0  # uses of examples that are gone

    def is_strict(self, row: Row) -> bool:
        """It leaves the state that was recorded: no later rebuild on the way redid it."""
        return row.row >= self._left_out_before

    def __iter__(self) -> Iterator[Row]:
        """The first row yielded is the one that left the cached tensors.

        Raises NotFound when an example is no longer kept, or one was erased since a rebuild that is passed.
        """
        if self._tensors:
            self._trainer.load(self._tensors)
        for row in self.rows:
            if row.row > self._start or not self._tensors:
                self._apply(row)
            yield row

    def _apply(self, row: Row) -> None:
        leaves_out = not self.is_strict(row)
        if row.kind in STEPS:
            recipe = self._journal.recipe(row.recipe)
            batch = self._batch(row, leaves_out=leaves_out)
            self._trainer.apply(self._trainer.compute(batch, recipe, row.row), recipe, rate=row.body["rate"])
        elif row.kind == "settle":
            self._trainer.settle()
        elif row.is_rebuild:
            if not leaves_out and FlatState(self._trainer.bits.copy()).digest != row.state_digest:
                raise NotFound(f"examples that version {row.version} learnt from were erased since it was rebuilt")
        elif row.kind == "rebase" and leaves_out:
            self._trainer.reset(self._trainer.bits.copy())
        else:  # init, reset and rebase all start from the bytes of a version
            assert row.version is not None
            self._trainer.reset(self._bits(row.body.get("to", row.version)))
        if row.version is not None and row.version in self._targets:
            self._redone[row.version] = self._trainer.bits.copy()

    def _batch(self, row: Row, *, leaves_out: bool) -> MicroBatch:
        new, replayed, weights = row.body["new"], row.body["replayed"], row.body["weights"]
        if leaves_out:
            named = [*new, *replayed]
            new, replayed = self._kept(new), self._kept(replayed)
            left = {*new, *replayed}
            self.left_out += len(named) - len(left)
            weights = [weight for one, weight in zip(named, weights, strict=False) if one in left]
        return self._batches.build(new, replayed, row.body["task"], weights)

    def _kept(self, feedback: Sequence[int]) -> tuple[int, ...]:
        return self._batches.kept([one for one in feedback if one not in self._without])

    def _bits(self, version: int) -> np.ndarray:
        redone = self._redone.get(version)
        return self._load(version) if redone is None else redone


def redo(
    journal: JournalRows,
    trainer: Trainer,
    batches: MicroBatches,
    load: Load,
    *,
    cached: Cached | None = None,
    until: int | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Row:
    """Bring `trainer` to the state after the newest row (or the one that made version `until`), from `cached` tensors or the beginning.

    `alive` is called after each row, to keep a lease. Returns the last row redone. Raises Unequal when its digest is not the
    journalled one, NotFound when there is no row or when an example that a row names is no longer kept.
    """
    last: Row | None = None
    for row in Replay(journal, trainer, batches, load, cached=cached, until=until):
        alive()
        last = row
    if last is None:
        raise NotFound("the journal has no row to redo")
    if FlatState(trainer.bits.copy()).digest != last.state_digest:
        raise Unequal(f"redoing the journal up to version {last.version} gives another state than the one recorded")
    return last
