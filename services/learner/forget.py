"""The order to forget somebody: tensors first, then the erasure, then the rebuild where one is asked for. Knows the parts; no table.

A crash between two of these loses nothing and brings nothing back: before the erasure nothing has happened; after it a redo starts at the
tensors, and a rebuild that is due is made at the next start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from liveloop.errors import NotNow
from services.learner.erasure import Erased, erase
from services.learner.journal import By
from services.learner.parts import Parts
from services.learner.rebuild import rebuild
from services.learner.trainer import Recipe


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What came of the order."""

    erased: Erased
    rebuilt: int  # the version without them; 0 where nothing was rebuilt


class Forgetting:
    """Carries the order out in the loop's thread, between two turns."""

    def __init__(self, parts: Parts, recipe: Recipe, save: Callable[[], None], alive: Callable[[], None]) -> None:
        """`save` writes the tensors and waits for it; `alive` keeps the lease, and raises when the learner is to stop."""
        self._parts = parts
        self._recipe = recipe
        self._save = save
        self._alive = alive

    def order(self, who: bytes, by: By, *, rebuilds: bool) -> Forgotten:
        """Forget `who`, a keyed hash. Raises NotNow: nothing was erased, or all of it and the rebuild waits; RebuildFailed."""
        self._save_all()
        erased = erase(self._parts.journal, self._recipe, who, by, rebuild=rebuilds)
        return Forgotten(erased, self._rebuilt() if rebuilds else 0)

    def _save_all(self) -> None:
        """A redo from before the erasure would miss what is erased."""
        self._save()
        last = self._parts.journal.last()
        if last is None or self._parts.tensors.newest_row() != last.row:
            raise NotNow("the tensors cannot be saved, as on a full disk: nothing was erased")

    def _rebuilt(self) -> int:
        """The version without them; 0 where no step learnt from them, or all was rebuilt before."""
        parts, due = self._parts, self._parts.journal.due_rebuild()
        if due is None:
            return 0
        last = parts.journal.last()
        assert last is not None
        try:
            row = rebuild(parts, self._recipe, due, self._alive)
        except BaseException:
            if parts.journal.last() == last:
                self._take_up_again(last.row)
            raise
        assert row.version is not None
        parts.examiner.begin_anew(row.version, like=row.version)
        parts.publication.publish(row, parts.publication.stage(parts.trainer.bits))
        return row.version

    def _take_up_again(self, last: int) -> None:
        """Half redone is no state to go on from: back to the one that the journal ends in."""
        cached = self._parts.tensors.newest(lambda row: row == last)
        assert cached is not None  # it was saved when the order began
        self._parts.trainer.load(cached[1])
