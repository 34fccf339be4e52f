"""The flat state: the bf16 bit patterns of every served tensor, and the digests of their 1 MiB chunks. Knows no tensors and no versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from blake3 import blake3

from liveloop.errors import BlobCorrupt
from liveloop.weights.patch import CHUNK, Bits, Change, Positions, decode

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

    def rehash(self, chunks: Iterable[int] | None = None) -> None:
        """Digest chunks anew; None: every one."""
        digest_chunks(self.bits, range(chunk_count(len(self.bits))) if chunks is None else chunks, self._digests)

    def take(self, changes: Iterable[Change], chunk_digests: bytes) -> None:
        """Change, to the state with these chunk digests."""
        for change in changes:
            self.bits[change.positions] = change.values
        self._digests[:] = chunk_digests

    def assign(self, other: FlatState) -> None:
        """Become a copy of `other`, a state of the same length, in place."""
        self.bits[:] = other.bits
        self._digests[:] = other._digests

    def apply_chain(self, patches: Sequence[Iterable[bytes]], digest: bytes) -> list[int]:
        """Apply patches, each of some parts, in order, in place, and return the chunks in which values may have changed.

        Raises:
            BlobCorrupt: a part is malformed, or the result is not the state with this digest.
            WeightsRefused, Unavailable: what the iteration over parts raised. Always, what was overwritten is back then, and every
                chunk is digested anew: where memory was damaged the digest says so from then on.
        """
        overwritten = _Overwritten(self.bits, whole_chunks=len(patches) > 1)
        done = False
        try:
            for parts in patches:
                for positions, old, new in decode(parts, self.bits):
                    overwritten.keep(positions, old)
                    self.bits[positions] = new
            digest_chunks(self.bits, overwritten.chunks, self._digests)
            if self.digest != digest:
                raise BlobCorrupt("the patched state is not the one the manifest names")
            done = True
        finally:
            if not done:
                overwritten.put_back()
                self.rehash()
        return sorted(overwritten.chunks)


class _Overwritten:
    """What patches overwrite, to put it back: single values, or whole chunks where that is less than what many patches overwrite."""

    def __init__(self, bits: Bits, *, whole_chunks: bool) -> None:
        self._bits = bits
        self._whole_chunks = whole_chunks
        self._values: list[tuple[Positions, Bits]] = []
        self.chunks: dict[int, Bits] = {}
        """The chunks that were touched, and what was there where whole chunks are kept."""

    def keep(self, positions: Positions, values: Bits) -> None:
        """Keep `values`, which are at the sorted `positions`, all in one chunk."""
        chunk = int(positions[0]) // CHUNK
        if not self._whole_chunks:
            self._values.append((positions, values))
            self.chunks[chunk] = values
        elif chunk not in self.chunks:
            self.chunks[chunk] = chunk_of(self._bits, chunk).copy()

    def put_back(self) -> None:
        """Make the bits what they were."""
        for positions, values in self._values:
            self._bits[positions] = values
        if self._whole_chunks:
            for chunk, values in self.chunks.items():
                chunk_of(self._bits, chunk)[:] = values


def chunk_count(total: int) -> int:
    """Chunks in a state of `total` elements."""
    return -(-total // CHUNK)


def chunk_of(bits: Bits, chunk: int) -> Bits:
    """One chunk, without copying it; the last one may be shorter."""
    return bits[chunk * CHUNK : (chunk + 1) * CHUNK]


def chunk_bytes(bits: Bits, chunk: int) -> memoryview:
    """Its bytes, without copying them."""
    return chunk_of(bits, chunk).data.cast("B")


def digest_chunks(bits: Bits, chunks: Iterable[int], digests: bytearray) -> None:
    """Bring the digests of some chunks up to date."""
    for chunk in chunks:
        digests[chunk * _DIGEST : (chunk + 1) * _DIGEST] = blake3(chunk_bytes(bits, chunk)).digest()
