"""The patch codec: which bf16 bit patterns changed, and by how much. Knows two buffers; knows no versions, files or signatures.

A part is the length of its PatchHeader (4 bytes, little-endian), the header, and three zstd streams:

    gaps         how many unchanged values lie before each changed one: 255 * q + r is q bytes of 255 and one byte r < 255
    low bytes    of the difference new - old of the two bit patterns modulo 2^16, zigzag-coded as a signed 16-bit number
    high bytes   of the same

One training step moves most values by one unit in the last place, so that the low bytes are mostly 1 and 2 and the high bytes 0:
docs/decisions/0002-patches-carry-bit-pattern-differences.md.
"""

from __future__ import annotations

import numpy as np
import zstandard
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from liveloop.errors import BlobCorrupt
from liveloop.v1.weights_pb2 import PatchHeader
from liveloop.weights.store import BLOB_LIMIT

Bits = NDArray[np.uint16]
Positions = NDArray[np.int64]

PART_COUNT = 1 << 18
"""Changed values in one part at most: with incompressible gaps and values such a part is still below BLOB_LIMIT."""

_LEVEL = 1
_LENGTH = 4


def difference(old: Bits, new: Bits, *, start: int) -> tuple[Positions, Bits]:
    """The sorted positions from `start` on at which two states differ, and new - old modulo 2^16 there."""
    positions = np.flatnonzero(old[start:] != new[start:])
    positions += start
    return positions, new[positions] - old[positions]


def encode(old: Bits, new: Bits, *, start: int) -> list[bytes]:
    """The parts of the patch that turns `old` into `new`, each at most BLOB_LIMIT bytes; nothing differs before `start`."""
    positions, deltas = difference(old, new, start=start)
    return encode_changes(positions, deltas, start=start)


def encode_changes(positions: Positions, deltas: Bits, *, start: int) -> list[bytes]:
    """As `encode`, of what `difference` found."""
    parts = []
    for first in range(0, len(positions), PART_COUNT):
        window = slice(first, first + PART_COUNT)
        parts += _encode_parts(positions[window], deltas[window], start)
        start = int(positions[window][-1]) + 1
    return parts


def decode(part: bytes, *, total: int) -> tuple[Positions, Bits]:
    """The positions, ascending and below `total`, that a part changes, and what to add there modulo 2^16.

    Raises:
        BlobCorrupt: the part is malformed. Nothing larger than a well-formed part could need is allocated before it is known to be one.
    """
    header, gaps, low, high = _split(part)
    count, start = header.count, header.start
    if header.format != 1 or not 0 < count <= PART_COUNT or start + count > total:
        raise BlobCorrupt("a patch part is of an unknown format or does not fit the layout")
    steps = _unpack(gaps, at_least=count, at_most=count + (total - start) // 255)
    zigzag = _unpack(low, at_least=count, at_most=count).astype(np.uint16)
    zigzag |= _unpack(high, at_least=count, at_most=count).astype(np.uint16) << 8
    ends = np.flatnonzero(steps != 255)
    if len(ends) != count or steps[-1] == 255:
        raise BlobCorrupt("a patch part has another number of gaps than of values")
    positions = np.cumsum(steps, dtype=np.int64)[ends]
    positions += np.arange(start, start + count, dtype=np.int64)
    if positions[-1] >= total:
        raise BlobCorrupt("a patch part changes values beyond the end of the layout")
    return positions, (zigzag >> 1) ^ np.negative(zigzag & 1)


def _encode_parts(positions: Positions, deltas: Bits, start: int) -> list[bytes]:
    part = _encode_part(positions, deltas, start)
    if len(part) <= BLOB_LIMIT:
        return [part]
    half = len(positions) // 2  # only a sparse patch of billions of values has gaps this long
    tail_start = int(positions[half - 1]) + 1
    return _encode_parts(positions[:half], deltas[:half], start) + _encode_parts(positions[half:], deltas[half:], tail_start)


def _encode_part(positions: Positions, deltas: Bits, start: int) -> bytes:
    gaps = np.diff(positions, prepend=start - 1) - 1
    runs, rests = np.divmod(gaps, 255)
    steps = np.full(len(gaps) + int(runs.sum()), 255, np.uint8)
    steps[np.cumsum(runs + 1) - 1] = rests
    zigzag = (deltas << 1) ^ np.negative(deltas >> 15)
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    streams = [compressor.compress(stream.tobytes()) for stream in (steps, zigzag.astype(np.uint8), (zigzag >> 8).astype(np.uint8))]
    header = PatchHeader(format=1, start=start, count=len(positions), streams=[len(stream) for stream in streams]).SerializeToString()
    return b"".join([len(header).to_bytes(_LENGTH, "little"), header, *streams])


def _split(part: bytes) -> tuple[PatchHeader, bytes, bytes, bytes]:
    end = _LENGTH + int.from_bytes(part[:_LENGTH], "little")
    try:
        header = PatchHeader.FromString(part[_LENGTH:end])
    except DecodeError as error:
        raise BlobCorrupt("a patch part has no header") from error
    if len(part) > BLOB_LIMIT or len(header.streams) != 3 or end + sum(header.streams) != len(part):
        raise BlobCorrupt("a patch part is not as long as its header says")
    low = end + header.streams[0]
    high = low + header.streams[1]
    return header, part[end:low], part[low:high], part[high:]


def _unpack(stream: bytes, *, at_least: int, at_most: int) -> NDArray[np.uint8]:
    try:
        declared = zstandard.frame_content_size(stream)
        if not at_least <= declared <= at_most:
            raise BlobCorrupt("a stream of a patch part declares an impossible length")
        unpacked = zstandard.ZstdDecompressor().decompress(stream, max_output_size=at_most, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BlobCorrupt("a stream of a patch part does not decompress") from error
    if len(unpacked) != declared:
        raise BlobCorrupt("a stream of a patch part is shorter than it declares")
    return np.frombuffer(unpacked, np.uint8)
