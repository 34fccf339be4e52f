"""Makes versions: patch, signed manifest, head. Knows stores and bits; knows nothing of training, tasks or who reads.

    staged = publisher.stage(bits)              what would change: nothing is written
    publisher.publish(staged, version=7, ...)   blobs first, the head last: a reader finds a whole version or the one before it

Every KEYFRAME_INTERVAL versions a thread writes a keyframe from a copy; the chain of the next head starts there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from liveloop import crash
from liveloop.errors import BlobMissing, LiveloopError, Misconfigured, WeightsRefused
from liveloop.telemetry import logger
from liveloop.times import timestamp
from liveloop.v1.weights_pb2 import ChainLink, Head, IncludedFeedback, Layout, Manifest, ModelBundle
from liveloop.weights.head import HeadRecord, read_model, sign_head
from liveloop.weights.keyframes import Keyframe, keyframe_bytes
from liveloop.weights.layout import check_layout, layout_digest
from liveloop.weights.manifest import sign
from liveloop.weights.patch import Bits
from liveloop.weights.records import Records
from liveloop.weights.staging import Staged, check_finite, check_size, stage
from liveloop.weights.state import FlatState
from liveloop.weights.store import BLOB_LIMIT, WeightStore, blob_name, named

__all__ = ["Published", "Publisher", "Staged", "read_model"]

KEYFRAME_INTERVAL = 64
"""Versions from one keyframe to the next: at 0.9 MB a patch, a chain of them weighs about as much as a keyframe."""


@dataclass(frozen=True, slots=True)
class Published:
    """A version that the head names."""

    version: int
    parent: int
    manifest: str  # blob of its signed manifest
    patch_bytes: int


class Publisher:
    """The one writer of a store. Safe to use from several threads; two processes are kept apart by the epoch."""

    def __init__(self, store: WeightStore, key: Ed25519PrivateKey, *, epoch: int, canary_share: float = 1.0) -> None:
        """Load the current version; an epoch above the head's is written to the store at once, so that older publishers stop.

        Below a `canary_share` of 1 that share of users gets the current version and the rest the blessed one.

        Raises:
            Misconfigured: the store holds no model yet.
            HeadConflict: another publisher holds a newer epoch.
            WeightsRefused, Unavailable: the current version cannot be loaded.
        """
        self._store, self._key, self._epoch = store, key, epoch
        self._records = Records(store, key.public_key())
        self.signer = blake3(key.public_key().public_bytes_raw()).hexdigest()  # names the key in the journal
        self._lock = threading.RLock()
        self._writing: Keyframe | None = None  # a thread writes it
        self._written: Keyframe | None = None  # the next head's chain starts there
        self._thread: threading.Thread | None = None
        self._record = HeadRecord(store, key, self._records, epoch=epoch, canary_share=canary_share)
        line = self._record.line
        self.bundle: ModelBundle = self._records.bundle(line[-1])
        self.layout: Layout = self.bundle.layout
        check_layout(self.layout)
        self.state: FlatState = self._records.restore(line, self.layout.total)
        self._record.move(self._record.head.chain)  # with this epoch and canary share

    @classmethod
    def first(cls, store: WeightStore, key: Ed25519PrivateKey, bundle: ModelBundle, bits: Bits) -> Publisher:
        """Publish version 1: a keyframe, born blessed, with epoch 1 and revision 1.

        Raises:
            Misconfigured: the store holds a model already.
            WrongLayout: the bundle's layout is not sound.
            WeightsRefused: a value that can be trained is not finite.
            ValueError: `bits` are not of the layout's size.
        """
        check_layout(bundle.layout)
        check_size(bits, bundle.layout)
        check_finite(bits[bundle.layout.frozen :])
        if store.head() is not None:
            raise Misconfigured("the weight store holds a model already: name another folder, or remove it")
        content = bundle.SerializeToString(deterministic=True)
        parts = named(content[at : at + BLOB_LIMIT] for at in range(0, len(content), BLOB_LIMIT))
        state = FlatState(bits.copy())
        manifest = Manifest(format=1, version=1, epoch=1, bundle_blobs=parts, state_digest=state.digest)
        manifest.layout_digest, manifest.model_digest = layout_digest(bundle.layout), blake3(content).digest()
        manifest.created_at.GetCurrentTime()
        keyframe = Keyframe(manifest, state, key)
        store.put(parts)
        keyframe.write(store)
        head = Head(format=1, epoch=1, revision=1, current=1, blessed=1, canary_share=1.0, chain=[keyframe.link])
        head.model_digest, head.keyframe_bytes = manifest.model_digest, keyframe_bytes(len(bits))
        store.set_head(sign_head(head, key), epoch=1, revision=1, expected=None)
        return cls(store, key, epoch=1)

    @property
    def head(self) -> Head:
        """A copy of the head as it was last written."""
        with self._lock:
            return self._record.copy()

    def stage(self, bits: Bits) -> Staged:
        """Compare `bits` (uint16, [layout.total]) with the last published version; see `staging.stage`."""
        with self._lock:
            return stage(self.state, bits, self.layout)

    def publish(
        self, staged: Staged, *, version: int, step: int, included: Sequence[float], created_at: float, traceparent: str = ""
    ) -> Published:
        """Publish what was staged as `version`; times are Unix seconds. The same version with the same content again is harmless.

        Raises:
            HeadConflict: another publisher moved the head.
            Unavailable: the store cannot be reached; try again.
            ValueError: the version is not above the current one, or was staged against another version.
        """
        with self._lock:
            current = self._record.head.chain[-1]
            if version == current.version and staged.digest == self.state.digest:
                return self._published(current)
            if version <= current.version:
                raise ValueError(f"version {version} does not come after version {current.version}")
            if staged.parent_digest != self.state.digest:
                raise ValueError("another version was published since this one was staged")
            chain = self._chain()
            parts = named(staged.parts)
            manifest = self._next_manifest(chain[-1])
            manifest.version, manifest.step, manifest.state_digest = version, step, staged.digest
            manifest.patch_blobs.extend(parts)
            manifest.patch_bytes = staged.patch_bytes
            manifest.included.extend(IncludedFeedback(accepted_at=timestamp(seconds)) for seconds in included)
            manifest.created_at.CopyFrom(timestamp(created_at))
            manifest.traceparent = traceparent
            link, blob = self._signed(manifest)
            self._store.put({**parts, link.manifest: blob})
            crash.point("after-blobs")
            self._record.move([*chain, link])
            crash.point("after-head")
            if self._written and chain[0] == self._written.link:
                self._written = None
            self.state.take(staged.changes, staged.chunk_digests)
            self._start_keyframe(link)
            return self._published(link)

    def begin_chain(self) -> None:
        """Write a keyframe of the current version at once and begin the head's chain there: nothing before it is needed any more.

        Raises HeadConflict, Unavailable.
        """
        self.close()  # a keyframe under way is of an older version
        with self._lock:
            link = self._record.head.chain[-1]
            keyframe = Keyframe(self._records.manifest(link.manifest), self.state, self._key)
            keyframe.write(self._store)
            self._record.move([keyframe.link])
            self._writing = self._written = None

    def bless(self, version: int) -> None:
        """Make `version` the blessed one. Raises BlobMissing when it is not kept any more, HeadConflict, Unavailable."""
        with self._lock:
            if version not in self._record.links:
                raise BlobMissing(f"version {version} is not kept any more")
            self._record.move(self._record.head.chain, blessed=version)

    def keeps(self, version: int) -> bool:
        """Whether a version can still be loaded and blessed."""
        with self._lock:
            return version in self._record.links

    def load(self, version: int, manifest: str) -> Bits:
        """The bits of a version that is still kept; `manifest` is what `publish` gave for it.

        Raises:
            BlobMissing: it is not kept any more.
        """
        with self._lock:
            link = self._record.links.get(version)
        name = link.manifest if link else manifest  # a version since a keyframe may have been signed anew
        line = list(self._records.line(name).values())
        if line[-1].version != version or line[-1].model_digest != self._record.head.model_digest:
            raise WeightsRefused(f"the manifest {name} is not one of version {version} of this model")
        return self._records.restore(line, self.layout.total).bits

    def collect(self, keep: Iterable[int]) -> None:
        """Keep version 1, current, blessed and `keep`, each from its keyframe on, and delete all other blobs.

        Raises HeadConflict, with nothing deleted, when another publisher moved the head; Unavailable.
        """
        with self._lock:
            self._record.move(self._record.head.chain, keep=keep)
            needed = self._records.needs(self._record.head)
            for keyframe in (self._writing, self._written):
                needed |= keyframe.names if keyframe else set()
            doomed = set(self._store.names()) - needed
            head = self._record.blob  # the names came first: another publisher writes its head before its first blob
            manifests = {link.manifest for link in self._record.links.values()} & doomed
            self._store.delete(manifests, head=head)  # before what they name: a version is whole or unknown
            self._store.delete(doomed - manifests, head=head)
            self._record.forget(needed)
            self._records.forget(needed)

    def close(self) -> None:
        """Wait for a keyframe that is being written."""
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _published(self, link: ChainLink) -> Published:
        return Published(link.version, self._records.manifest(link.manifest).parent, link.manifest, link.patch_bytes)

    def _signed(self, manifest: Manifest) -> tuple[ChainLink, bytes]:
        blob = sign("manifest", manifest.SerializeToString(deterministic=True), self._key)
        return ChainLink(version=manifest.version, manifest=blob_name(blob), patch_bytes=manifest.patch_bytes), blob

    def _next_manifest(self, parent: ChainLink) -> Manifest:
        """A manifest with what every version of this model has in common."""
        last = self._records.manifest(parent.manifest)
        return Manifest(
            format=1,
            parent=parent.version,
            parent_manifest=parent.manifest,
            epoch=self._epoch,
            layout_digest=last.layout_digest,
            model_digest=last.model_digest,
            bundle_blobs=last.bundle_blobs,
        )

    def _chain(self) -> list[ChainLink]:
        """The chain for the next head: it starts at the keyframe written last, and the versions since are signed anew to lead there."""
        chain = list(self._record.head.chain)
        if self._written is None:
            return chain
        links, blobs = [self._written.link], {}
        for link in chain:
            if link.version > links[0].version:
                manifest = Manifest()
                manifest.CopyFrom(self._records.manifest(link.manifest))
                manifest.parent_manifest = links[-1].manifest
                new, blob = self._signed(manifest)
                links.append(new)
                blobs[new.manifest] = blob
        self._store.put(blobs)
        return links

    def _start_keyframe(self, link: ChainLink) -> None:
        if len(self._record.head.chain) <= KEYFRAME_INTERVAL or self._writing or self._written:
            return
        self._writing = Keyframe(self._records.manifest(link.manifest), self.state, self._key)
        self._thread = threading.Thread(target=self._write_keyframe, args=[self._writing], name="keyframe", daemon=True)
        self._thread.start()

    def _write_keyframe(self, keyframe: Keyframe) -> None:
        try:
            keyframe.write(self._store)
        except Exception as error:  # noqa: BLE001  the top of the thread: the chain grows until a later try succeeds
            reason = error.reason if isinstance(error, LiveloopError) else repr(error)
            logger(part="publisher").warning("keyframe not written", version=keyframe.link.version, reason=reason)
            with self._lock:
                self._writing = None
        else:
            with self._lock:
                self._writing, self._written = None, keyframe
