"""The head as its one writer keeps it, and the versions that it can name. Knows links and signatures; knows no bits and no patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from liveloop.errors import BlobMissing, HeadConflict, Misconfigured
from liveloop.v1.weights_pb2 import ChainLink, Head, Manifest, ModelBundle
from liveloop.weights.manifest import head_key, open_head, sign
from liveloop.weights.records import Records
from liveloop.weights.store import WeightStore

_REMEMBERED = 1024
"""Versions before the chain that are looked up on opening: more than pass between two collections."""


class HeadRecord:
    """Reads the head once and writes every one after it. Not for several threads at once."""

    def __init__(self, store: WeightStore, key: Ed25519PrivateKey, records: Records, *, epoch: int, canary_share: float) -> None:
        """Read the head; every head written here has this `canary_share`.

        Raises:
            Misconfigured: the store holds no model yet.
            HeadConflict: another publisher holds a newer epoch.
            WeightsRefused, Unavailable: the head or its chain cannot be read.
        """
        self._store, self._key, self._epoch, self._canary_share = store, key, epoch, canary_share
        self.head = read_head(store, key.public_key())
        if epoch < self.head.epoch:
            raise HeadConflict(f"the weight store is at epoch {self.head.epoch}: a learner with epoch {epoch} may not publish to it")
        self.line = records.chain(self.head)
        self.links = {link.version: link for link in [*_before(records, self.line[0]), *self.head.kept, *self.head.chain]}

    def copy(self) -> Head:
        """A copy of the head."""
        head = Head()
        head.CopyFrom(self.head)
        return head

    def move(self, chain: Sequence[ChainLink], *, blessed: int = 0, keep: Iterable[int] | None = None) -> None:
        """Write the head with this chain, unless it is what the store has; nothing here changes before that is done.

        `blessed` 0 and `keep` None leave as they are which version is blessed and which are kept.

        Raises:
            HeadConflict: another publisher moved the head.
            Unavailable: the store cannot be reached.
        """
        before, head = self.head, self.copy()
        links = self.links | {link.version: link for link in chain}
        head.epoch, head.canary_share = self._epoch, self._canary_share
        head.current, head.blessed = chain[-1].version, blessed or before.blessed
        kept = {1, head.blessed, *(keep if keep is not None else (link.version for link in before.kept))}
        kept -= {link.version for link in chain}
        del head.chain[:], head.kept[:]
        head.chain.extend(chain)
        head.kept.extend(links[version] for version in sorted(kept & links.keys()))
        if head != before:
            head.revision = before.revision + 1 if self._epoch == before.epoch else 1
            self._store.set_head(sign_head(head, self._key), epoch=head.epoch, revision=head.revision, expected=head_key(before))
            self.head, self.links = head, links

    @property
    def blob(self) -> bytes:
        """The head as it is in the store while no other publisher moves it."""
        return sign_head(self.head, self._key)

    def forget(self, needed: Set[str]) -> None:
        """Let go of the versions whose manifests are not among the blobs `needed`."""
        self.links = {version: link for version, link in self.links.items() if link.manifest in needed}


@dataclass(frozen=True, slots=True)
class StoredModel:
    """What a store's head says about the model."""

    bundle: ModelBundle
    epoch: int
    version: int  # the current one


def read_head(store: WeightStore, verify_key: Ed25519PublicKey) -> Head:
    """The head. Raises Misconfigured when the store holds no model yet, WeightsRefused, Unavailable."""
    blob = store.head()
    if blob is None:
        raise Misconfigured("the weight store holds no model yet: run `liveloop init`")
    return open_head(blob, verify_key)


def read_model(store: WeightStore, verify_key: Ed25519PublicKey) -> StoredModel:
    """The model in a store, without its weights. Raises as `read_head` does."""
    head = read_head(store, verify_key)
    records = Records(store, verify_key)
    return StoredModel(records.bundle(records.chain(head)[-1]), head.epoch, head.current)


def sign_head(head: Head, key: Ed25519PrivateKey) -> bytes:
    """The blob that is stored. The same head and key give the same bytes."""
    return sign("head", head.SerializeToString(deterministic=True), key)


def _before(records: Records, keyframe: Manifest) -> Iterator[ChainLink]:
    """The versions before a keyframe, as far back as the store has them without a gap."""
    manifest = keyframe
    for _ in range(_REMEMBERED):
        name = manifest.parent_manifest
        if not name:
            return
        try:
            manifest = records.manifest(name)
        except BlobMissing:
            return
        yield ChainLink(version=manifest.version, manifest=name, patch_bytes=manifest.patch_bytes)
