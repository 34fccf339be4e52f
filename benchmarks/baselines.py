"""Reference encoders that liveloop's patches are compared with. Knows two buffers of bf16 bit patterns; knows no codec of ours.

sparse_values   a frame after PULSE (Miahi and Belilovsky 2026, arXiv 2602.03839): where a value changed and its new bf16 value. Positions
                are sorted and coded as gaps in the narrowest unsigned type that holds the largest; both streams are zstd-1.
xor             the XOR of the whole buffers, zstd-1: what delta-compressing checkpoint stores do
floor_bytes     what no code can beat that knows only how many values changed, when each moved up or down by one unit: P (H(p) + p) / 8
"""

from __future__ import annotations

from math import log2

import numpy as np
import zstandard
from numpy.typing import NDArray

Bits = NDArray[np.uint16]

_LEVEL = 1
_HEADER = 9  # bytes: item size of a gap (1), length of the stream of gaps (8)


def encode_sparse_values(old: Bits, new: Bits) -> bytes:
    """A PULSE-style frame that turns `old` into `new`, [total] each."""
    positions = np.flatnonzero(old != new)
    gaps = np.diff(positions, prepend=0)
    narrow = gaps.astype(np.min_scalar_type(int(gaps.max(initial=0))))
    streams = [zstandard.compress(stream.tobytes(), _LEVEL) for stream in (narrow, new[positions])]
    return b"".join([narrow.itemsize.to_bytes(1, "little"), len(streams[0]).to_bytes(8, "little"), *streams])


def decode_sparse_values(old: Bits, frame: bytes) -> Bits:
    """What `encode_sparse_values` was given as `new`."""
    middle = _HEADER + int.from_bytes(frame[1:_HEADER], "little")
    gaps = np.frombuffer(zstandard.decompress(frame[_HEADER:middle]), f"u{frame[0]}")
    new = old.copy()
    new[np.cumsum(gaps, dtype=np.int64)] = np.frombuffer(zstandard.decompress(frame[middle:]), np.uint16)
    return new


def encode_xor(old: Bits, new: Bits) -> bytes:
    """The XOR of the two buffers, compressed."""
    return zstandard.compress((old ^ new).tobytes(), _LEVEL)


def decode_xor(old: Bits, frame: bytes) -> Bits:
    """What `encode_xor` was given as `new`."""
    return old ^ np.frombuffer(zstandard.decompress(frame), np.uint16)


def floor_bytes(trainable: int, changed: int) -> float:
    """The entropy in bytes of which `changed` of `trainable` values moved, and for each whether up or down."""
    share = changed / trainable
    if not 0 < share < 1:
        return changed / 8
    entropy = -share * log2(share) - (1 - share) * log2(1 - share)
    return trainable * (entropy + share) / 8
