"""What an operator may order: each order is one decision in the journal, with who and why. Knows the learner's parts; knows no gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from liveloop.errors import HeadConflict, NotNow, WeightsRefused
from liveloop.events import Gap
from services.learner.forget import Forgetting, Forgotten
from services.learner.journal import By, Journal
from services.learner.publication import Publication
from services.learner.quarantine import Name, Quarantine
from services.learner.reader import Reader
from services.learner.rows import Row
from services.learner.trainer import Recipe


class Operator:
    """Carries orders out, in the loop's thread, between two turns."""

    def __init__(
        self,
        journal: Journal,
        publication: Publication,
        recipe: Recipe,
        rollback: Callable[[int, str, str], Row],
        forgetting: Forgetting,
        reader: Reader,
    ) -> None:
        """`rollback(to, who, why)` brings old bytes back as a new version."""
        self._journal = journal
        self._publication = publication
        self._recipe = recipe
        self._rollback = rollback
        self._forgetting = forgetting
        self._reader = reader
        self._quarantine = Quarantine(journal, recipe)

    def promote(self, version: int, by: By) -> None:
        """Bless a version without its evaluation, also one older than the blessed one. Raises NotFound, NotNow, Unavailable."""
        self._publication.require(version)
        with self._journal.transaction():  # a head that cannot be written leaves no note
            self._note("promote", version, by)
            self._journal.blessed(version)
            self._publication.promote(version)

    def rollback(self, to: int, by: By) -> Row:
        """Serve the weights of version `to` again; a second order to the same effect changes nothing.

        Returns the row of the new version. Raises NotFound, NotNow, Unavailable.
        """
        last = self._journal.last()
        if last is not None and last.kind == "reset" and last.body["to"] == to:
            return last
        if last is not None and last.version == to:
            raise NotNow(f"version {to} is the newest: there is nothing to undo")
        self._publication.require(to)
        try:
            return self._rollback(to, by.who, by.why)
        except HeadConflict:  # it is no business of the order's
            raise
        except WeightsRefused as error:
            raise NotNow(f"version {to} cannot be read any more: {error.reason}") from error

    def pin(self, version: int, by: By) -> None:
        """Keep a version from collection. Raises NotFound, NotNow."""
        self._publication.require(version)
        with self._journal.transaction():
            self._note("pin", version, by)
            self._journal.pin(version)

    def unpin(self, version: int, by: By) -> None:
        """Let a pinned version go. Raises NotNow when it is not pinned."""
        with self._journal.transaction():
            if not self._journal.unpin(version):
                raise NotNow(f"version {version} is not pinned")
            self._note("unpin", version, by)

    def pause(self, by: By) -> None:
        """Take no more steps, over restarts too."""
        self._journal.pause(self._recipe, **asdict(by))

    def resume(self, by: By) -> None:
        """Take steps again, whoever paused them."""
        self._journal.resume(self._recipe, **asdict(by))

    def release(self, names: Sequence[Name], by: By) -> int:
        """Let quarantined feedback train, all of it where none is named; how many."""
        return self._quarantine.release(names, **asdict(by))

    def drop(self, names: Sequence[Name], by: By) -> int:
        """Reject quarantined feedback for good, all of it where none is named; how many."""
        return self._quarantine.drop(names, **asdict(by))

    def forget(self, who: bytes, by: By, *, rebuilds: bool) -> Forgotten:
        """Erase all that `who`, a keyed hash, asked and judged, and with `rebuilds` what the model learnt from it.

        Raises NotNow: nothing was erased, or all of it and the rebuild waits.
        """
        return self._forgetting.order(who, by, rebuilds=rebuilds)

    def retry(self, letters: Sequence[int], by: By) -> tuple[int, int]:
        """Read dead letters again, all of them where none is named; how many could be read, and how many still cannot."""
        with self._journal.transaction():
            read, left = self._reader.retry(letters)
            self._journal.note("retry-dead-letters", self._recipe, read=read, left=left, **asdict(by))
        return read, left

    def accept_gap(self, by: By) -> Sequence[Gap]:
        """Go on behind what is missing in the log; what that is. Raises NotNow where nothing is."""
        return self._reader.accept_gap(self._recipe, **asdict(by))

    def _note(self, decision: str, version: int, by: By) -> None:
        self._journal.note(decision, self._recipe, version=version, **asdict(by))
