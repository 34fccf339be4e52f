"""The flat state: the bf16 bit patterns of every served tensor, and the digests of their 1 MiB chunks. Knows no tensors and no versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from blake3 import blake3

from liveloop.errors import BlobCorrupt
from liveloop.weights.patch import Bits, Positions, decode
from liveloop.weights.store import BLOB_LIMIT

CHUNK = BLOB_LIMIT // 2
"""Elements in one chunk; its bytes are one blob of a keyframe."""

_DIGEST = 32


class FlatState:
    """A flat state and the digest of every chunk of it. Not for several threads at once, except to read `bits`."""

    def __init__(self, bits: Bits) -> None:
        """Take over `bits` (uint16, [total], contiguous, writable): from now on it changes only through this object."""
        if bits.dtype != np.uint16 or bits.ndim != 1 or not bits.flags.c_contiguous or not bits.flags.writeable:
            raise ValueError("a flat state is a writable one-dimensional array of uint16")
        self.bits = bits
        self._digests = bytearray(_DIGEST * chunk_count(len(bits)))
        self.rehash()

    @property
    def chunk_digests(self) -> bytes:
        """The blake3 of each chunk, 32 bytes each, in order."""
        return bytes(self._digests)

    @property
    def digest(self) -> bytes:
        """blake3 over `chunk_digests`, 32 bytes."""
        return blake3(self._digests).digest()

    def rehash(self) -> None:
        """Digest every chunk anew."""
        _digest_chunks(self.bits, range(chunk_count(len(self.bits))), self._digests)

    def digests_with(self, bits: Bits, positions: Positions) -> bytes:
        """What `chunk_digests` would be with `bits` ([total]), which differ from this state at the sorted `positions` alone."""
        digests = bytearray(self._digests)
        _digest_chunks(bits, _touched(positions, len(bits)), digests)
        return bytes(digests)

    def set(self, positions: Positions, values: Bits, chunk_digests: bytes) -> None:
        """Write `values` at `positions`, for the chunk digests that `digests_with` gave."""
        self.bits[positions] = values
        self._digests[:] = chunk_digests

    def assign(self, other: FlatState) -> None:
        """Become a copy of `other`, a state of the same length, in place."""
        self.bits[:] = other.bits
        self._digests[:] = other._digests

    def apply(self, parts: Sequence[bytes], digest: bytes) -> Positions:
        """Apply the parts of one patch in place; see `apply_chain`."""
        return self.apply_chain([parts], digest)

    def apply_chain(self, patches: Sequence[Sequence[bytes]], digest: bytes) -> Positions:
        """Apply patches in order, in place, and return the sorted positions that may have changed, each once.

        Raises:
            BlobCorrupt: a part is malformed, or the result is not the state with this digest. What was overwritten is back then.
        """
        before = bytes(self._digests)
        backup = self.bits.copy() if len(patches) > 1 else None  # cheaper than a list of what each patch of many overwrites
        undo: list[tuple[Positions, Bits]] = []
        try:
            for parts in patches:
                self._add(parts, undo if backup is None else None)
            touched = np.flatnonzero(self.bits != backup) if backup is not None else _joined(undo)
            _digest_chunks(self.bits, _touched(touched, len(self.bits)), self._digests)
            if self.digest != digest:
                raise BlobCorrupt("the patched state is not the one the manifest names")
        except BlobCorrupt:
            if backup is not None:
                self.bits[:] = backup
            for positions, values in undo:
                self.bits[positions] = values
            self._digests[:] = before
            raise
        return touched

    def _add(self, parts: Sequence[bytes], undo: list[tuple[Positions, Bits]] | None) -> None:
        """Apply one patch, noting in `undo` what it overwrites."""
        end = 0
        for part in parts:
            positions, deltas = decode(part, total=len(self.bits))
            if positions[0] < end:
                raise BlobCorrupt("the parts of a patch overlap")
            end = int(positions[-1]) + 1
            values = self.bits[positions]
            if undo is not None:
                undo.append((positions, values))
            self.bits[positions] = values + deltas


def chunk_count(total: int) -> int:
    """Chunks in a state of `total` elements."""
    return -(-total // CHUNK)


def chunk_bytes(bits: Bits, chunk: int) -> memoryview:
    """The bytes of one chunk, without copying them; the last one may be shorter."""
    return bits[chunk * CHUNK : (chunk + 1) * CHUNK].data.cast("B")


def _digest_chunks(bits: Bits, chunks: Iterable[int], digests: bytearray) -> None:
    for chunk in chunks:
        digests[chunk * _DIGEST : (chunk + 1) * _DIGEST] = blake3(chunk_bytes(bits, chunk)).digest()


def _touched(positions: Positions, total: int) -> list[int]:
    """The chunks that hold at least one of the sorted positions."""
    edges = np.searchsorted(positions, np.arange(chunk_count(total) + 1) * CHUNK)
    return np.flatnonzero(np.diff(edges)).tolist()


def _joined(undo: Sequence[tuple[Positions, Bits]]) -> Positions:
    return np.concatenate([positions for positions, _ in undo]) if undo else np.empty(0, np.int64)
