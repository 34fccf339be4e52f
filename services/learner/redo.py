"""From the journal back to the tensors: the same function for a restart and for the proof of a version. Knows no log."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from liveloop.errors import LiveloopError, NotFound
from liveloop.weights.state import FlatState
from services.learner.journal import Journal
from services.learner.micro_batch import MicroBatches
from services.learner.rows import Row
from services.learner.trainer import Trainer

Load = Callable[[int], np.ndarray]
"""The served bits of a version that is still kept."""


class Unequal(LiveloopError):
    """A redone row left another state than the one it was journalled with: another processor, thread count or library."""


def redo(
    journal: Journal,
    trainer: Trainer,
    batches: MicroBatches,
    load: Load,
    *,
    cached: tuple[int, dict[str, torch.Tensor]] | None = None,
    until: int | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Row:
    """Bring `trainer` to the state after the newest row (or the one that made version `until`), from `cached` tensors or the beginning.

    `alive` is called before each row, to keep a lease. Returns the last row redone. Raises Unequal when its digest is not the
    journalled one, NotFound when there is no row or when an example that a row names is no longer kept.
    """
    start, tensors = cached or (0, {})
    if tensors:
        trainer.load(tensors)
    last: Row | None = None
    for row in journal.since(start - 1 if tensors else 0):
        if until is not None and row.version is not None and row.version > until:
            break
        if row.row > start or not tensors:
            alive()
            _apply(row, journal, trainer, batches, load)
        last = row
    if last is None:
        raise NotFound("the journal has no row to redo")
    if FlatState(trainer.bits.copy()).digest != last.state_digest:
        raise Unequal(f"redoing the journal up to version {last.version} gives another state than the one recorded")
    return last


def _apply(row: Row, journal: Journal, trainer: Trainer, batches: MicroBatches, load: Load) -> None:
    if row.kind == "train":
        recipe = journal.recipe(row.recipe)
        batch = batches.build(row.body["new"], row.body["replayed"], row.body["task"])
        trainer.apply(trainer.compute(batch, recipe, row.row), recipe)
    elif row.kind == "settle":
        trainer.settle()
    else:  # init, reset and rebase all start from the bytes of a version
        assert row.version is not None
        trainer.reset(load(int(row.body.get("to", row.version))))
