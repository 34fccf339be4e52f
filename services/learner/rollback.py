"""Old bytes back as a new version: the guard's way and the operator's. Knows the parts; decides nothing but when training must wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from liveloop import crash, telemetry
from services.learner.parts import Parts
from services.learner.rows import Row
from services.learner.trainer import Recipe

GUARD = "guard"
"""Who gives the guard's orders, in the journal."""
_ROLLBACKS = 3
"""Rollbacks in a row, no version that passed the evaluation between, after which training waits for an operator."""

_log = telemetry.logger(part="rollback")


class Rollback:
    """One journal row each, then its publication."""

    def __init__(self, parts: Parts, recipe: Recipe, begin_anew: Callable[[], None]) -> None:
        """`begin_anew` is told once the journal has the row: what the loop had under way is over, and the tensors are other ones."""
        self._parts = parts
        self._recipe = recipe
        self._begin_anew = begin_anew

    def order(self, to: int, who: str, why: str) -> Row:
        """Serve the bytes of version `to` again, as a new version.

        Returns the row that made it. Raises NotFound, WeightsRefused when `to` cannot be read; Unavailable: done, and published later.
        """
        return self._go_back(to, self._parts.publication.load(to), who, why)

    def take_back(self, to: int, why: str, given_back: Sequence[int] = ()) -> None:
        """The guard's rollback, to an older version where `to` cannot be read; feedback `given_back` is taken again.

        Training waits for an operator after several in a row, and where nothing can be read but what is served.
        """
        version, bits = self._parts.publication.load_or_older(to)
        halt = f"no version to go back to can be read; {why}" if version > to else ""
        self._go_back(version, bits, GUARD, why, given_back, halt=halt)

    def _go_back(self, to: int, bits: np.ndarray, who: str, why: str, given_back: Sequence[int] = (), *, halt: str = "") -> Row:
        """`halt`: why training waits for an operator whatever came before."""
        parts = self._parts
        parts.trainer.reset(bits)
        staged = parts.publication.stage(parts.trainer.bits)
        with parts.journal.transaction():  # all of it or nothing, whenever a crash comes
            row = parts.journal.reset(to, self._recipe, staged.digest, why, who=who)
            parts.journal.give_back(given_back)
            if who == GUARD and parts.journal.resets_in_a_row(GUARD) >= _ROLLBACKS:
                halt = halt or f"{_ROLLBACKS} rollbacks in a row; the last: {why}"
            if halt:
                _log.error("training is paused; an operator may resume it", reason=halt)
                parts.journal.pause(self._recipe, who=GUARD, why=halt)
        crash.point("after-reset")
        assert row.version is not None
        _log.warning("back to an earlier version", to=to, version=row.version, who=who, reason=why)
        telemetry.counter("guard_decisions_total").labels("rollback").inc()
        parts.examiner.begin_anew(row.version, like=to)
        self._begin_anew()
        parts.publication.publish(row, staged)
        return row
