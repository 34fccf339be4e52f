"""A keyframe: one whole version, as blobs. Knows the bytes of a state and its signed manifest; knows no head and no chain."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from liveloop.v1.weights_pb2 import ChainLink, Manifest
from liveloop.weights.manifest import sign
from liveloop.weights.state import FlatState, chunk_bytes, chunk_count
from liveloop.weights.store import BLOB_LIMIT, WeightStore, blob_name, named
from liveloop.weights.transfer import batches


class Keyframe:
    """A copy of one version's state and everything that names it; written whenever there is time."""

    def __init__(self, manifest: Manifest, state: FlatState, key: Ed25519PrivateKey) -> None:
        """Copy `state`, the version that `manifest` describes, and sign a second manifest of it that names the keyframe."""
        digests = state.chunk_digests
        self._bits = state.bits.copy()
        self._lists = named(digests[at : at + BLOB_LIMIT] for at in range(0, len(digests), BLOB_LIMIT))
        self._chunks = [digests[at : at + 32].hex() for at in range(0, len(digests), 32)]
        self.manifest = Manifest()
        self.manifest.CopyFrom(manifest)
        self.manifest.keyframe_blobs[:] = self._lists
        self._blob = sign("manifest", self.manifest.SerializeToString(deterministic=True), key)
        self.link = ChainLink(version=manifest.version, manifest=blob_name(self._blob), patch_bytes=manifest.patch_bytes)

    @property
    def names(self) -> set[str]:
        """Every blob it consists of."""
        return {self.link.manifest, *self._lists, *self._chunks}

    def write(self, store: WeightStore) -> None:
        """Store what `store` lacks: the manifest last, so that whoever finds it finds the rest. Raises Unavailable."""
        lacking = store.missing(self._chunks)
        wanted = [chunk for chunk, name in enumerate(self._chunks) if name in lacking]
        for batch in batches(wanted):
            store.put({self._chunks[chunk]: bytes(chunk_bytes(self._bits, chunk)) for chunk in batch})
        store.put(self._lists)
        store.put({self.link.manifest: self._blob})
        self._bits = np.empty(0, np.uint16)  # it may be long before the next head lets go of the rest


def keyframe_bytes(total: int) -> int:
    """Bytes of all blobs of a keyframe of `total` elements, but for its manifest."""
    return 2 * total + 32 * chunk_count(total)
