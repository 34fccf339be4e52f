"""From a journal row to a version that pods can fetch. Knows the publisher, the mirror and the journal.

fast    every row's version is published at once
gated   a version is published once it passed the full evaluation, and is blessed then; the rows between are only journalled
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from liveloop import crash, telemetry
from liveloop.errors import BlobMissing, HeadConflict, Misconfigured, NotFound, NotNow, WeightsRefused
from liveloop.weights.channels import has_canary
from liveloop.weights.mirror import Mirror
from liveloop.weights.publisher import Published, Publisher, Staged
from services.learner.journal import Journal
from services.learner.rows import Row

_INCLUDED = 10_000
"""Newest feedbacks whose freshness pods observe for one version: a manifest with their times is well below a blob's size."""
_FIRST = 1
"""A version that is always kept."""

_log = telemetry.logger(part="publication")


class Publication:
    """The learner's only way out. What the journal does not have yet is never published."""

    def __init__(self, publisher: Publisher, journal: Journal, mirror: Mirror | None = None, *, gated: bool = False) -> None:
        """The publisher's canary share says who blesses: below 1 not the evaluation alone, but what users say of what passed it."""
        self.publisher = publisher
        self._journal = journal
        self._mirror = mirror
        self._gated = gated
        self.candidate = 0  # the newest version that passed the full evaluation while there is a canary

    @property
    def has_canary(self) -> bool:
        """The current version is served to some users, the blessed one to the rest."""
        return has_canary(self.publisher.head)

    @property
    def blessed(self) -> int:
        """The newest version that passed the full evaluation."""
        return self.publisher.head.blessed

    def stage(self, bits: np.ndarray) -> Staged:
        """What would change if `bits` were published. Raises WeightsRefused when one of them is not finite."""
        return self.publisher.stage(bits)

    def publish(self, row: Row, staged: Staged) -> None:
        """Publish the version that `row` made; with gated publishing only one that goes back to what was published before,
        and one that was rebuilt without what was erased: until then that is served.

        Raises Unavailable, HeadConflict.
        """
        if row.kind == "reset":
            self._go_back(row, staged)
        elif row.is_rebuild:
            self._publish(row, staged)
            self.let_go()
        elif not self._gated:
            self._publish(row, staged)

    def catch_up(self, bits: np.ndarray) -> None:
        """Finish the publish that a crash or a full disk left undone; `bits` is the state the journal ends in.

        Before the next row: what a reset takes back must not be served until another row passes, nor stay blessed.
        """
        row = self._journal.last()
        if row is None or row.version is None or row.version <= self.publisher.head.current:
            return
        if row.kind == "reset" or row.is_rebuild or not self._gated:
            self.publish(row, self.stage(bits))

    def let_go(self) -> None:
        """Make nothing in the store lead to versions that a rebuild replaced, so that they are collected: also after a crash in between.

        The current version is the blessed one where that was replaced: whoever ordered the rebuild wants no older one served.
        """
        head = self.publisher.head
        if self._journal.is_replaced(head.current):
            return  # the rebuilt version is not published yet
        if any(self._journal.is_replaced(link.version) for link in head.chain):
            self.publisher.begin_chain()
        if self._journal.is_replaced(head.blessed):
            self.promote(head.current)
            self._journal.blessed(head.current)
        if self._journal.is_replaced(self.candidate):
            self.candidate = 0
        self._notify()

    def know_current(self) -> None:
        """Record the head's versions as published: a crash came between the head and the journal's note of it, or the journal was lost."""
        head = self.publisher.head
        parents = {link.version: before.version for before, link in pairwise(head.chain)}
        for link in [*head.kept, *head.chain]:
            if not self._journal.is_published(link.version):
                parent = parents.get(link.version, 0)
                self._published(Published(link.version, parent, link.manifest, link.patch_bytes))
        self._journal.blessed(head.blessed)

    def passed(self, version: int, trained: np.ndarray) -> None:
        """`version`, whose served bits without the frozen ones are `trained`, passed the full evaluation: bless it.

        With gated publishing that is when it is published. With a canary it is a candidate until its users have judged it.
        """
        if self.has_canary:
            self.candidate = version
            return
        if self._gated and version > self.publisher.head.current and (row := self._journal.making(version)) is not None:
            bits = self.publisher.state.bits.copy()
            bits[self.publisher.layout.frozen :] = trained
            self._publish(row, self.stage(bits))
        self.bless(version)

    def bless(self, version: int) -> bool:
        """Say in the head that `version` is the blessed one; False where it was never published or is not kept any more."""
        if version <= self.blessed:
            return version == self.blessed
        try:
            self.publisher.bless(version)
        except BlobMissing:
            return False
        crash.point("after-bless")
        self._notify()
        self._journal.blessed(version)
        return True

    def promote(self, version: int) -> None:
        """Say in the head that `version` is blessed, also one older than the blessed one. Raises BlobMissing, Unavailable."""
        self.publisher.bless(version)
        self._notify()

    def require(self, version: int) -> None:
        """Raise NotFound for a version that was never published, NotNow for one that is not kept any more."""
        self._journal.manifest(version)
        if self._journal.is_replaced(version):
            raise NotNow(f"version {version} learnt from what was erased since and was replaced: it is gone for good")
        if not self.publisher.keeps(version):
            raise NotNow(f"version {version} is not kept any more")

    def load(self, version: int) -> np.ndarray:
        """The bits of a published version that is still kept. Raises NotFound, WeightsRefused, Unavailable."""
        return self.publisher.load(version, self._journal.manifest(version))

    def load_or_older(self, version: int) -> tuple[int, np.ndarray]:
        """A version and its bits: this one, else the newest blessed one before it that stands and can be read, else the first.

        The current one, which is in memory, where no other can be read. Raises Unavailable.
        """
        head = self.publisher.head
        older = (one for one in self._journal.blessed_before(version) if self.publisher.keeps(one) and self._journal.stands(one))
        for one in () if version == head.current else dict.fromkeys((version, *older, _FIRST)):
            try:
                return one, self.load(one)
            except (NotFound, WeightsRefused) as error:
                _log.error("a version to go back to cannot be read", version=one, reason=error.reason)
        return head.current, self.publisher.state.bits.copy()

    def check(self) -> None:
        """Raise what the mirror cannot mend by trying again: Misconfigured, HeadConflict."""
        failure = self._mirror.failure if self._mirror is not None else None
        if isinstance(failure, (Misconfigured, HeadConflict)):
            raise failure

    def _go_back(self, row: Row, staged: Staged) -> None:
        """Publish a reset. What is blessed is never an undone version: the guard measures by it, and a canary serves it.

        A version with the bytes of one that was blessed is blessed.
        """
        assert row.version is not None
        to = row.body["to"]
        if self._journal.is_undone(self.blessed):
            self._journal.blessed(to)
            self.promote(to)
        self._publish(row, staged)
        if self._journal.is_blessed(to):
            self.bless(row.version)

    def _publish(self, row: Row, staged: Staged) -> None:
        assert row.version is not None
        after = row.version if row.kind == "reset" or row.is_rebuild else self.publisher.head.current  # going back includes nothing new
        included = self._journal.included(after, row.version, _INCLUDED)
        traced = row.body.get("traceparent", "")
        done = self.publisher.publish(
            staged, version=row.version, step=row.row, included=included, created_at=row.created_at, traceparent=traced
        )
        self._notify()
        self._published(done)
        telemetry.counter("versions_published_total").labels(row.kind).inc()
        telemetry.histogram("patch_bytes").observe(done.patch_bytes)
        telemetry.gauge("model_version").set(done.version)
        telemetry.gauge("model_version_timestamp_seconds").set(row.created_at)

    def _published(self, done: Published) -> None:
        signer = self.publisher.signer
        self._journal.published(done.version, parent=done.parent, manifest=done.manifest, patch_bytes=done.patch_bytes, signer=signer)

    def _notify(self) -> None:
        if self._mirror is not None:
            self._mirror.notify()
