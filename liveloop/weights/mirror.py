"""Keeps one weight store like another: the learner's directory in Redis, a pod's last good copy. Knows stores and which blobs a head needs.

It copies without judging: whoever serves from the copy verifies every signature.
"""

from __future__ import annotations

import threading
import time
from itertools import islice

from liveloop import crash
from liveloop.errors import BlobCorrupt, BlobMissing, LiveloopError, Misconfigured, Unavailable
from liveloop.telemetry import logger
from liveloop.weights.manifest import head_key, open_head
from liveloop.weights.records import Records
from liveloop.weights.store import WeightStore
from liveloop.weights.transfer import batches, read_ahead

_CHECK = 10.0
"""Seconds from one look at everything in the target to the next."""

_MENDED = 64
"""Blobs read again in one such look: a pass over what a pod fetches takes about half a minute."""

_FIRST_REST = 0.1
"""Seconds before a failed copy is tried again; doubled each time, up to _CHECK."""


class Copier:
    """Copies heads and the blobs they need, and remembers which blobs the target has."""

    def __init__(
        self, source: WeightStore, target: WeightStore, *, kept: bool = True, holdout: bool = False, take_over: bool = False
    ) -> None:
        """Copy from `source` to `target`: what its head has pods serve, with `holdout` version 1 too, and with `kept` all that it keeps.

        `take_over` lets it replace the head of another model.
        """
        self._source, self._target = source, target
        self._kept, self._holdout, self._take_over = kept, holdout, take_over
        self._records = Records(source, None)
        self._head: bytes | None = None  # copied last
        self._copied: set[str] = set()  # what it needs
        self._sure = False  # the target still has that, as far as is known
        self._served: list[str] = []  # of that, what pods may serve and `mend` has not looked at yet

    def copy(self, blob: bytes) -> bool:
        """Make `blob` the target's head, its blobs first; False when it had everything.

        Raises:
            Misconfigured: the target holds another model.
            HeadConflict: the target's head is newer.
            WeightsRefused, Unavailable: either store failed.
        """
        head = open_head(blob, None)
        before = self._target.head()
        expected = None if before is None else self._same_model(before, head.model_digest)
        needed = self._records.needs(head, kept=self._kept, holdout=self._holdout)
        there = self._copied if self._sure and before == self._head else set()  # with another head it was flushed, or went back
        missing = sorted(self._target.missing(needed - there))
        blobs = read_ahead(self._source, missing)
        for names in batches(missing):
            self._target.put(dict(zip(names, islice(blobs, len(names)), strict=True)))
        if missing:
            crash.point("after-mirror-blobs")
        if before != blob:
            self._target.set_head(blob, epoch=head.epoch, revision=head.revision, expected=expected)
            crash.point("after-mirror-head")
        self._head, self._copied, self._sure = blob, needed, True
        self._records.forget(needed)
        return bool(missing) or before != blob

    def prune(self, blob: bytes) -> None:
        """Remove from the target what its head does not need, if that head is `blob`. Raises WeightsRefused, Unavailable."""
        needed = self._records.needs(open_head(blob, None), kept=self._kept, holdout=self._holdout)
        if self._target.head() == blob:
            self._target.delete(set(self._target.names()) - needed)

    def drop_collected(self) -> None:
        """Remove from the target what the source no longer has, but nothing that the target's head needs.

        Raises:
            WeightsRefused, Unavailable: what that is cannot be found out, or either store failed.
        """
        there = set(self._target.names())  # listed first: what is copied from now on is in the source
        blob = self._target.head()
        needed = self._copied
        if blob is not None and blob != self._head:
            needed = Records(self._target, None).needs(open_head(blob, None))
        self._target.delete(there - set(self._source.names()) - needed)

    def recheck(self) -> None:
        """Ask the target about every blob the next time: it may have lost some."""
        self._sure = False

    def mend(self) -> None:
        """Read some of what pods may serve from the target, the next ones each time, and put back what is damaged.

        Raises:
            WeightsRefused, Unavailable: either store failed.
        """
        if not self._served and self._head is not None:
            self._served = sorted(self._records.needs(open_head(self._head, None), kept=False, holdout=True))
        names, self._served = self._served[:_MENDED], self._served[_MENDED:]
        for name in self._copied.intersection(names):
            try:
                self._target.get([name])
            except (BlobCorrupt, BlobMissing):
                self._target.put({name: self._source.get([name])[0]})

    def _same_model(self, before: bytes, model_digest: bytes) -> tuple[int, int]:
        head = open_head(before, None)
        if head.model_digest != model_digest and not self._take_over:
            raise Misconfigured("the weight store to publish to holds another model: name another one, or replace it with --take-over")
        return head_key(head)


class Mirror:
    """A thread that keeps `target` like `source`, also when the target was away, was flushed or lost blobs."""

    def __init__(self, source: WeightStore, target: WeightStore, *, take_over: bool = False) -> None:
        """`take_over` lets it replace the head of another model in the target."""
        self._source = source
        self._copier = Copier(source, target, take_over=take_over)
        self._wake = threading.Event()
        self._stopping = False
        self._log = logger(part="mirror")
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self.failure: LiveloopError | None = None  # why the target is not like the source now; after Misconfigured the thread has ended

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def notify(self) -> None:
        """There is a new head."""
        self._wake.set()

    def close(self, timeout: float) -> None:
        """Copy what is new once more, and end; wait for that up to `timeout` seconds."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        rest, check_at = _FIRST_REST, 0.0
        while True:
            last = self._stopping
            due = time.monotonic() >= check_at
            try:
                self._once(check=due)
            except Misconfigured as error:
                self.failure = error
                self._log.error(error.reason)
                return
            except Exception as error:  # noqa: BLE001  the top of the loop: the next try may find either store or the disk again
                self._failed(error if isinstance(error, LiveloopError) else Unavailable(f"copying failed: {error!r}"))
                rest, check_at = min(2 * rest, _CHECK), 0.0
            else:
                self._succeeded()
                rest, check_at = _FIRST_REST, time.monotonic() + _CHECK if due else check_at
            if last:
                return
            self._wake.wait(rest if self.failure else max(check_at - time.monotonic(), 0.0))
            self._wake.clear()

    def _once(self, *, check: bool) -> None:
        blob = self._source.head()
        if blob is None:
            raise Unavailable("the weight store to copy from holds no model yet")
        if check:
            self._copier.recheck()
        try:
            self._copier.copy(blob)
        except Unavailable:
            self._copier.drop_collected()  # a full store takes the rest once what nobody needs is gone
            raise
        if check:
            self._copier.drop_collected()
            self._copier.mend()

    def _failed(self, error: LiveloopError) -> None:
        if self.failure is None:
            self._log.warning("the weight store's copy falls behind", reason=error.reason)
        self.failure = error

    def _succeeded(self) -> None:
        if self.failure is not None:
            self._log.info("the weight store's copy has caught up")
        self.failure = None
