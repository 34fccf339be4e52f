"""Follows the head and keeps a state equal to each version it has pods serve. Knows stores and signatures; knows no model and no batch.

    subscriber.start()
    while serving:
        update = subscriber.next(timeout=1.0)       # blocks; the channel's state is patched when it returns
        if update: widen(subscriber.served[update.channel].state.bits, update.chunks), flip

What is refused leaves the state as it was; the version that is served goes on being served.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from liveloop.errors import BlobMissing, HeadConflict, StaleHead, Unavailable, WeightsRefused, WrongLayout
from liveloop.telemetry import logger
from liveloop.v1.weights_pb2 import Head, Layout, Manifest, ModelBundle
from liveloop.weights.channels import Channel, channels_of
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.layout import check_layout, layout_digest
from liveloop.weights.manifest import HeadKey, accepted_times, head_key, open_head
from liveloop.weights.mirror import Copier
from liveloop.weights.records import Records
from liveloop.weights.state import FlatState
from liveloop.weights.store import WeightStore
from liveloop.weights.versioned import Moved, VersionedState

_FIRST_REST, _LONGEST_REST = 0.1, 5.0
"""Seconds before a refused head is looked at again: doubled each time, so that a lasting fault costs little."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Update:
    """What one call of `next` changed."""

    channel: Channel
    version: int
    created_at: float  # when the version was made, Unix seconds
    chunks: list[int] | None  # of the state, those with values that may differ from before; None: any may
    included: list[float]  # when the feedback was accepted that the current version and those skipped newly include, Unix seconds
    blessed: int
    epoch: int
    revision: int
    traceparent: str = ""  # of the step that made the version


class Subscriber:
    """A verified copy of each version that pods serve: see `channels_of`. For one thread, but for `keep_local`."""

    bundle: ModelBundle
    layout: Layout
    served: Mapping[Channel, VersionedState]  # the channels in use; CURRENT stays the same object from `start` on
    head: Head  # the newest one that was taken

    def __init__(
        self, store: WeightStore, verify_key: Ed25519PublicKey, *, local: DirectoryStore | None = None, holdout: bool = False
    ) -> None:
        """Follow `store`; `local` is where the last good copy is kept and where `start` finds it again; `holdout` keeps version 1 too."""
        self._store, self._local, self._holdout = store, local, holdout
        self._verify_key = verify_key
        self._records = Records(store, verify_key)
        self._head_blob = b""
        self._seen: HeadKey = (0, 0)  # of the newest head that could be verified, whether or not what it names could be fetched
        self._refusals = 0  # in a row
        self._refused: HeadKey | None = None  # the head that was refused last, as far as it can be read
        self._again_at = 0.0  # when that head is looked at again
        self._ready: deque[Update] = deque()  # states that are patched already, for `next` to tell of

    @property
    def state(self) -> FlatState:
        """The current version's bits."""
        return self.served[Channel.CURRENT].state

    @property
    def version(self) -> int:
        """The current version."""
        return self.served[Channel.CURRENT].version

    @property
    def created_at(self) -> float:
        """When the current version was made, Unix seconds."""
        return self.served[Channel.CURRENT].created_at

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
            self._tell_age(error.reason)
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
                self._tell_age("the weight store went back to an older version")
        except (Unavailable, WeightsRefused):
            return  # what the store gave is served

    def _tell_age(self, reason: str) -> None:
        age = round(time.time() - self.created_at, 1)
        logger(part="subscriber").warning("serving the last good copy", version=self.version, age_seconds=age, reason=reason)

    def next(self, timeout: float) -> Update | None:
        """Wait up to `timeout` seconds for a channel's newer version and become it; versions skipped meanwhile are one update.

        Raises:
            WeightsRefused: the store's head, or what it names, cannot be trusted or is not of this model; the state is as before.
            Unavailable: the store cannot be reached.
        """
        deadline = time.monotonic() + timeout
        while self._ready or self._wait(deadline):
            if self._ready:
                return self._ready.popleft()
            try:
                _with_newest(self._store, self._follow)
            except WeightsRefused:
                self._again_at = time.monotonic() + min(_FIRST_REST * 2**self._refusals, _LONGEST_REST)
                self._refusals += 1
                raise
            self._refusals = 0
        return None

    def mend(self, channel: Channel) -> Update | None:
        """Fetch again what is damaged in a channel's state; an update in which any value may differ, as what is served may be damaged too.

        None while a newer head is half taken: it mends the state by itself.

        Raises:
            WeightsRefused, Unavailable: it cannot be fetched now.
        """
        held = self.served[channel]
        line = list(self._records.line_of(self.head, channel).values())
        if line[-1].version != held.version:
            return None
        held.move(self._records, line)
        return _update(channel, held, Moved([], None), self.head, is_new=False)

    def keep_local(self) -> None:
        """Make `local` a copy of the versions that are served. Raises WeightsRefused, Unavailable."""
        if self._local is not None:
            copier = Copier(self._store, self._local, kept=False, holdout=self._holdout, take_over=True)
            while True:
                blob = self._head_blob
                try:
                    self._copy(copier, self._local, blob)
                except BlobMissing:
                    if blob == self._head_blob:
                        raise  # else it was collected while this state moved on
                else:
                    return

    def _copy(self, copier: Copier, local: DirectoryStore, blob: bytes) -> None:
        try:
            copier.copy(blob)
        except HeadConflict:
            kept = local.head()
            if kept is None or open_head(kept, None).model_digest == self.head.model_digest:
                raise
            local.drop_heads()  # of another model: epochs of two models are not to be compared
            copier.copy(blob)
        copier.prune(blob)

    def _load(self, store: WeightStore, blob: bytes) -> None:
        head = open_head(blob, self._verify_key)
        records = Records(store, self._verify_key)
        line = records.chain(head)
        bundle = records.bundle(line[-1])
        check_layout(bundle.layout)
        digest = layout_digest(bundle.layout)
        if any(manifest.layout_digest != digest for manifest in line):
            raise WrongLayout("a manifest is for another layout than its model's")
        current = VersionedState(records.restore(line, bundle.layout.total), line[-1])
        served = {Channel.CURRENT: current}
        for channel in channels_of(head, holdout=self._holdout)[1:]:
            served[channel] = current.twin()
            served[channel].move(records, list(records.line_of(head, channel).values()))
        self.bundle, self.layout, self.served = bundle, bundle.layout, served
        self.head, self._head_blob, self._seen = head, blob, head_key(head)

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

    def _follow(self, blob: bytes) -> None:
        """Take the head in `blob`: bring the states to what it names; none moves on while there is something to tell of it."""
        if self._ready:
            return
        self._refused = _key_of(blob)
        head = open_head(blob, self._verify_key)
        if head.model_digest != self.head.model_digest:
            raise WrongLayout("the store now holds another model, or another layout of it, than this pod serves: a new pod would take it")
        if head_key(head) < self._seen:
            raise StaleHead(f"the store's head {head_key(head)} is older than the one seen before, {self._seen}")
        self._seen = head_key(head)
        if self._seen == head_key(self.head):
            return
        current = self.served[Channel.CURRENT]
        wanted = channels_of(head, holdout=self._holdout)
        served = {channel: self.served.get(channel) or current.twin() for channel in wanted}  # before the current one moves on
        used: list[str] = []
        for channel, held in served.items():
            line = self._records.line_of(head, channel)
            used += line
            self._bring(channel, held, list(line.values()), head)
        self.served, self.head, self._head_blob = served, head, blob
        self._records.forget(used)

    def _bring(self, channel: Channel, held: VersionedState, line: Sequence[Manifest], head: Head) -> None:
        """Move one channel's state to the end of `line`, and note what there is to tell of it."""
        before, is_new = held.version, channel not in self.served
        moved = held.move(self._records, line)
        if is_new or held.version != before or moved.chunks is None or moved.chunks:
            self._ready.append(_update(channel, held, moved, head, is_new=is_new))


def _update(channel: Channel, held: VersionedState, moved: Moved, head: Head, *, is_new: bool) -> Update:
    return Update(
        channel=channel,
        version=held.version,
        created_at=held.created_at,
        chunks=None if is_new else moved.chunks,
        included=accepted_times(moved.newer) if channel is Channel.CURRENT else [],
        blessed=head.blessed,
        epoch=head.epoch,
        revision=head.revision,
        traceparent=held.traceparent,
    )


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
