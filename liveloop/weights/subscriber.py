"""Follows the head and keeps a state equal to the version it names. Knows stores, signatures and bits; knows no model and no batch.

    subscriber.start()
    while serving:
        update = subscriber.next(timeout=1.0)       # blocks; the state is patched when it returns
        if update: widen(subscriber.state.bits, update.positions), flip

What is refused leaves the state as it was; the version that is served goes on being served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from liveloop.errors import BlobCorrupt, BlobMissing, StaleHead, Unavailable, WeightsRefused, WrongLayout
from liveloop.telemetry import histogram
from liveloop.times import unix_seconds
from liveloop.v1.weights_pb2 import Head, Layout, Manifest, ModelBundle
from liveloop.weights.layout import check_layout, layout_digest
from liveloop.weights.manifest import HeadKey, accepted_times, head_key, open_head
from liveloop.weights.mirror import Copier
from liveloop.weights.patch import Positions
from liveloop.weights.records import Records
from liveloop.weights.route import Route, find_route
from liveloop.weights.state import FlatState
from liveloop.weights.store import WeightStore

_FIRST_REST, _LONGEST_REST = 0.1, 5.0
"""Seconds before a refused head is looked at again: doubled each time, so that a lasting fault costs little."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Update:
    """What one call of `next` changed."""

    version: int
    created_at: float  # when the version was made, Unix seconds
    positions: Positions | None  # sorted indices of the values that may differ from before; None: any may
    included: list[float]  # when the feedback was accepted that this version and those skipped newly include, Unix seconds
    blessed: int
    epoch: int
    revision: int


class Subscriber:
    """A verified copy of the current version. For one thread, but for `keep_local`."""

    bundle: ModelBundle
    layout: Layout
    state: FlatState  # stays the same object, over the same array, from `start` on
    version: int
    created_at: float  # when that version was made, Unix seconds
    head: Head  # the newest one that was taken

    def __init__(self, store: WeightStore, verify_key: Ed25519PublicKey, *, local: WeightStore | None = None) -> None:
        """Follow `store`; `local` is where the last good copy is kept and where `start` finds it again."""
        self._store, self._local = store, local
        self._verify_key = verify_key
        self._records = Records(store, verify_key)
        self._head_blob = b""
        self._layout_digest = b""
        self._refusals = 0  # in a row
        self._refused: HeadKey | None = None  # the head that was refused last, as far as it can be read
        self._again_at = 0.0  # when that head is looked at again
        self._doubtful = False  # a verified patch did not give the state that it should: fetch everything anew

    def start(self) -> None:
        """Load the current version, from the last good copy where the store cannot give it.

        Raises:
            Unavailable: the store cannot be reached, or holds no model yet.
            WeightsRefused: what it holds cannot be trusted.
        """
        try:
            _with_newest(self._store, lambda blob: self._load(self._store, blob))
        except (Unavailable, WeightsRefused) as error:
            if self._local is None:
                raise
            local = self._local
            try:
                _with_newest(local, lambda blob: self._load(local, blob))
            except (Unavailable, WeightsRefused):
                raise error from None
        else:
            self._stay_ahead()

    def _stay_ahead(self) -> None:
        """Take the last good copy where it is newer than what the store gave: a store that went back must not take this pod with it."""
        try:
            blob = None if self._local is None else self._local.head()
            if self._local is None or blob is None:
                return
            kept = open_head(blob, self._verify_key)
            if kept.model_digest == self.head.model_digest and head_key(kept) > head_key(self.head):
                self._load(self._local, blob)
        except (Unavailable, WeightsRefused):
            return  # what the store gave is served

    def next(self, timeout: float) -> Update | None:
        """Wait up to `timeout` seconds for a newer version and become it; versions skipped meanwhile are one update.

        Raises:
            WeightsRefused: the store's head, or what it names, cannot be trusted or is not of this model; the state is as before.
            Unavailable: the store cannot be reached.
        """
        deadline = time.monotonic() + timeout
        while self._wait(deadline):
            try:
                update = _with_newest(self._store, self._follow)
            except WeightsRefused:
                self._again_at = time.monotonic() + min(_FIRST_REST * 2**self._refusals, _LONGEST_REST)
                self._refusals += 1
                raise
            self._refusals = 0
            if update is not None:
                return update
        return None

    def keep_local(self) -> None:
        """Make `local` a copy of the version that this state was last brought to. Raises WeightsRefused, Unavailable."""
        if self._local is not None:
            copier = Copier(self._store, self._local, kept=False, take_over=True)
            while True:
                blob = self._head_blob
                try:
                    copier.copy(blob)
                    copier.prune(blob)
                except BlobMissing:
                    if blob == self._head_blob:
                        raise  # else it was collected while this state moved on
                else:
                    return

    def _load(self, store: WeightStore, blob: bytes) -> None:
        head = open_head(blob, self._verify_key)
        records = Records(store, self._verify_key)
        line = records.chain(head)
        bundle = records.bundle(line[-1])
        check_layout(bundle.layout)
        digest = layout_digest(bundle.layout)
        if any(manifest.layout_digest != digest for manifest in line):
            raise WrongLayout("a manifest is for another layout than its model's")
        self.state = records.restore(line, bundle.layout.total)
        self.bundle, self.layout, self._layout_digest = bundle, bundle.layout, digest
        self._took(head, blob, line)

    def _wait(self, deadline: float) -> bool:
        """Whether there is something to look at before the deadline."""
        left = max(deadline - time.monotonic(), 0.0)
        if not self._refusals:
            return self._store.wait(head_key(self.head), left)
        rest = max(min(self._again_at - time.monotonic(), left), 0.0)
        if self._refused is not None and self._store.wait(self._refused, rest):
            return True  # there is another head
        if self._refused is None:
            time.sleep(rest)
        return time.monotonic() >= self._again_at

    def _follow(self, blob: bytes) -> Update | None:
        """Take the head in `blob`; None when it names no newer version."""
        self._refused = _key_of(blob)
        head = open_head(blob, self._verify_key)
        if head_key(head) == head_key(self.head):
            return None
        if head_key(head) < head_key(self.head):
            raise StaleHead(f"the store's head {head_key(head)} is older than the one taken before, {head_key(self.head)}")
        if head.model_digest != self.head.model_digest:
            raise WrongLayout("the head is of another model")
        line = self._records.chain(head)
        route = find_route(self._records, line, self.version, self.state)
        self._check(line, route)
        positions = self._become(line, route)
        same = head.current == self.version
        self._took(head, blob, line)
        self._records.forget(link.manifest for link in head.chain)
        if same and positions is not None and not len(positions):
            return None
        return Update(
            version=head.current,
            created_at=self.created_at,
            positions=positions,
            included=accepted_times(route.newer),
            blessed=head.blessed,
            epoch=head.epoch,
            revision=head.revision,
        )

    def _check(self, line: Sequence[Manifest], route: Route) -> None:
        for manifest in (*line, *route.newer):
            if manifest.layout_digest != self._layout_digest or manifest.model_digest != self.head.model_digest:
                raise WrongLayout(f"version {manifest.version} is for another layout or model")

    def _become(self, line: Sequence[Manifest], route: Route) -> Positions | None:
        """Bring the state to the end of `line`, and return what may have changed."""
        if route.by_patches and not self._doubtful:
            with _timed("fetch"):
                patches = self._records.patches(route.newer)
            try:
                with _timed("patch"):
                    return self.state.apply_chain(patches, line[-1].state_digest)
            except BlobCorrupt:
                self._doubtful = True
                raise
        with _timed("keyframe"):
            self.state.assign(self._records.restore(line, self.layout.total, None if self._doubtful else self.state))
        self._doubtful = False
        return None

    def _took(self, head: Head, blob: bytes, line: Sequence[Manifest]) -> None:
        self.head, self._head_blob, self.version = head, blob, head.current
        self.created_at = unix_seconds(line[-1].created_at)


def _timed(stage: str) -> AbstractContextManager[object]:
    return histogram("weight_update_duration_seconds").labels(stage).time()


def _key_of(blob: bytes) -> HeadKey | None:
    """What orders a head that may not be signed: good for waiting for another one, for nothing else."""
    try:
        return head_key(open_head(blob, None))
    except WeightsRefused:
        return None


def _with_newest(store: WeightStore, use: Callable[[bytes], _Result]) -> _Result:
    """`use` the store's head, and the next one where blobs of the first were collected meanwhile."""
    while True:
        blob = store.head()
        if blob is None:
            raise Unavailable("the weight store holds no model yet: run `liveloop init`, or wait for the learner to publish to it")
        try:
            return use(blob)
        except BlobMissing:
            if store.head() == blob:
                raise
