"""What a store holds beside the head: manifests, bundle, keyframes, patches; which blobs a version needs. Trusts signatures alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import DecodeError

from liveloop.errors import BlobCorrupt
from liveloop.v1.weights_pb2 import Head, Manifest, ModelBundle
from liveloop.weights.channels import Channel, channels_of, link_of
from liveloop.weights.manifest import open_manifest
from liveloop.weights.state import FlatState, chunk_bytes, chunk_count
from liveloop.weights.store import WeightStore
from liveloop.weights.transfer import read_ahead

LINE_LIMIT = 8192
"""Versions from a keyframe on at most: a hundred times what is usual, and a head that names them is smaller than a blob."""


class Records:
    """Reads the records of one store; every manifest and keyframe is read once. Safe to use from several threads."""

    def __init__(self, store: WeightStore, verify_key: Ed25519PublicKey | None) -> None:
        """Manifests must be signed with `verify_key`; None is for copying from one store to another, never for serving."""
        self._store = store
        self._verify_key = verify_key
        self._manifests: dict[str, Manifest] = {}
        self._keyframes: dict[str, list[bytes]] = {}

    def manifest(self, name: str) -> Manifest:
        """The manifest in this blob. Raises BlobMissing, BlobCorrupt, BadSignature, Unavailable, as does all that reads."""
        return self.manifests([name])[0]

    def manifests(self, names: Sequence[str]) -> list[Manifest]:
        """The manifests in these blobs, in one read."""
        known = self._manifests
        unknown = [name for name in names if name not in known]
        read = {name: open_manifest(blob, self._verify_key) for name, blob in zip(unknown, self._store.get(unknown), strict=True)}
        known.update(read)
        return [read[name] if name in read else known[name] for name in names]

    def line(self, name: str) -> dict[str, Manifest]:
        """From the keyframe at or before the version with this manifest to that version, by blob."""
        manifest = self.manifest(name)
        found = {name: manifest}
        while not manifest.keyframe_blobs:
            parent = self.manifest(manifest.parent_manifest)
            if parent.version >= manifest.version or len(found) == LINE_LIMIT:
                raise BlobCorrupt(f"version {manifest.version} does not lead back to a keyframe")
            found[manifest.parent_manifest] = manifest = parent
        return dict(reversed(found.items()))

    def chain(self, head: Head) -> list[Manifest]:
        """The manifests of the head's chain, in one read, checked to be the line that leads to its current version."""
        if len(head.chain) > LINE_LIMIT:
            raise BlobCorrupt(f"the head's chain is of {len(head.chain)} versions")
        names = [link.manifest for link in head.chain]
        manifests = self.manifests(names)
        whole = bool(manifests[0].keyframe_blobs) and all(
            manifest.version == link.version and manifest.model_digest == head.model_digest
            for link, manifest in zip(head.chain, manifests, strict=True)
        )
        linked = all(
            later.parent_manifest == name and later.version > earlier.version
            for name, earlier, later in zip(names, manifests, manifests[1:], strict=False)
        )
        if not (whole and linked):
            raise BlobCorrupt("the head's chain is not a line of versions from a keyframe on")
        return manifests

    def line_of(self, head: Head, channel: Channel) -> dict[str, Manifest]:
        """From a keyframe to the version that the head has this channel serve, by blob."""
        if channel is Channel.CURRENT:
            return dict(zip([link.manifest for link in head.chain], self.chain(head), strict=True))
        link = link_of(head, channel)
        line = self.line(link.manifest)
        if list(line.values())[-1].version != link.version:
            raise BlobCorrupt(f"the manifest of version {link.version} is of another one")
        return line

    def needs(self, head: Head, *, kept: bool = True, holdout: bool = False) -> set[str]:
        """The blobs of the versions that the head has pods serve, with `holdout` version 1's too, with `kept` of all that it keeps."""
        names: set[str] = set()
        served = [link_of(head, channel) for channel in channels_of(head, holdout=holdout)]
        for link in [*served, *(head.kept if kept else [])]:
            if link.manifest not in names:
                names.update(self._needs(self.line(link.manifest)))
        return names

    def bundle(self, manifest: Manifest) -> ModelBundle:
        """What a pod needs beside the weights, checked against the manifest's model digest."""
        content = b"".join(self._store.get(list(manifest.bundle_blobs)))
        if blake3(content).digest() != manifest.model_digest:
            raise BlobCorrupt("the model bundle is not the one the manifest names")
        try:
            return ModelBundle.FromString(content)
        except DecodeError as error:
            raise BlobCorrupt("the model bundle does not parse") from error

    def patches(self, manifests: Sequence[Manifest]) -> list[Iterator[bytes]]:
        """The parts of the patches that lead to these versions, to be taken in order: most are read while the first are used."""
        blobs = read_ahead(self._store, [name for manifest in manifests for name in manifest.patch_blobs])
        return [islice(blobs, len(manifest.patch_blobs)) for manifest in manifests]

    def keyframe(self, manifest: Manifest) -> list[bytes]:
        """The digests of a keyframe's chunks, in order, checked against its state digest."""
        key = manifest.state_digest.hex()
        if key not in self._keyframes:
            content = b"".join(self._store.get(list(manifest.keyframe_blobs)))
            if blake3(content).digest() != manifest.state_digest or len(content) % 32:
                raise BlobCorrupt("a keyframe is not the state the manifest names")
            self._keyframes[key] = [content[at : at + 32] for at in range(0, len(content), 32)]
        return self._keyframes[key]

    def restore(self, line: Sequence[Manifest], total: int, have: FlatState | None = None) -> FlatState:
        """The state at the end of a line of `total` elements; of its keyframe only the chunks that `have` lacks are fetched."""
        digests = self.keyframe(line[0])
        if len(digests) != chunk_count(total):
            raise BlobCorrupt("a keyframe is of another size than the layout")
        bits = np.empty(total, np.uint16) if have is None else have.bits.copy()
        wanted = missing_chunks(digests, have)
        for chunk, blob in zip(wanted, read_ahead(self._store, [digests[chunk].hex() for chunk in wanted]), strict=True):
            place = chunk_bytes(bits, chunk)
            if len(blob) != len(place):
                raise BlobCorrupt("a chunk of a keyframe is of another size than the layout")
            place[:] = blob
        state = FlatState(bits)
        if state.digest != line[0].state_digest:
            raise BlobCorrupt("the restored keyframe is not the state the manifest names")
        state.apply_chain(self.patches(line[1:]), line[-1].state_digest)
        return state

    def forget(self, keep: Iterable[str]) -> None:
        """Let go of all manifests but these, and of all keyframes but theirs."""
        kept = set(keep)
        self._manifests = {name: manifest for name, manifest in self._manifests.items() if name in kept}
        digests = {manifest.state_digest.hex() for manifest in self._manifests.values()}
        self._keyframes = {digest: chunks for digest, chunks in self._keyframes.items() if digest in digests}

    def _needs(self, line: dict[str, Manifest]) -> Iterator[str]:
        first, *later = line.values()
        yield from line
        yield from first.bundle_blobs
        yield from first.keyframe_blobs
        yield from (digest.hex() for digest in self.keyframe(first))
        for manifest in later:
            yield from manifest.patch_blobs


def missing_chunks(digests: Sequence[bytes], have: FlatState | None) -> list[int]:
    """The chunks of a keyframe that a state lacks."""
    known = b"" if have is None else have.chunk_digests
    return [chunk for chunk, digest in enumerate(digests) if known[chunk * 32 : chunk * 32 + 32] != digest]
