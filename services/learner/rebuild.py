"""Training done again without what was erased: the journal's rows from before its first step on. Knows the parts; erases nothing itself.

A rebuild that was ordered and not finished is still due after a restart: the note of the order says so until a `rebase` row, or the note
that it failed, comes after it. Until that row is written nothing that is served changes.
"""

from __future__ import annotations

from collections.abc import Callable

from liveloop import telemetry
from liveloop.errors import NotFound, NotNow, WeightsRefused
from services.learner.parts import Parts
from services.learner.redo import Replay
from services.learner.rows import Due, Row
from services.learner.trainer import Recipe

_TOLD_EVERY = 50
"""Rows between two lines in the log: some ten seconds of MiniLM."""

_log = telemetry.logger(part="rebuild")


class RebuildFailed(NotNow):
    """A version that the rows start from cannot be read, or they lead to weights that are not finite."""


def rebuild(parts: Parts, recipe: Recipe, due: Due, alive: Callable[[], None]) -> Row:
    """Redo the journal up to its end without what was erased, or taken back after its step, and journal the result.

    `alive` is called after each row. The trainer is in the state of the `rebase` row that is returned; its version is still to be
    published. Raises RebuildFailed, with a note: the trainer is in no state then.
    """
    journal, trainer = parts.journal, parts.trainer
    base = parts.tensors.newest(lambda row: row < due.first and not journal.is_spoilt(row))
    without = journal.taken_back_since(due.first)
    replay = Replay(journal, trainer, parts.batches, parts.publication.load, cached=base, without=without)
    _log.info("rebuilding", rows=len(replay.rows), after_row=base[0] if base else 0)
    try:
        for done, _ in enumerate(replay, start=1):
            alive()
            telemetry.gauge("learner_rebuild_progress").set(done / len(replay.rows))
            if done % _TOLD_EVERY == 0:
                _log.info("rebuilding", done=done, rows=len(replay.rows))
        staged = parts.publication.stage(trainer.bits)
    except (NotFound, WeightsRefused) as error:
        journal.note("rebuild_failed", recipe, who="learner", why=error.reason)
        raise RebuildFailed(f"what was to be forgotten is erased, but training cannot be redone without it: {error.reason}") from error
    finally:
        telemetry.gauge("learner_rebuild_progress").set(0)
    row = journal.rebuilt(recipe, due, staged.digest, without=without, left_out=replay.left_out)
    parts.tensors.save(row.row, trainer.tensors(), wait=True)
    parts.tensors.remove(due.first, row.row)
    _log.info("rebuilt", version=row.version, left_out=replay.left_out)
    return row
