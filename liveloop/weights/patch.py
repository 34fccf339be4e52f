"""The patch codec: which bf16 bit patterns changed, and by how much. Knows two buffers; knows no versions, files or signatures.

A part is one frame after another, each of how the values of one range within one chunk change, in order. A frame is the length of its
PatchHeader (4 bytes, little-endian), the header, and eight streams. All but the second are zstd; one that would hold nothing is 0 bytes.

    gaps    for each value that changes, in order: how many values of the range lie between it and the one before;
            255 * q + r is q bytes of 255 and one byte r < 255
    signs   a bit for each, the first in the highest bit, zeros to the end of the byte: 1 where it went down
    high    the high bytes of all magnitudes; 0 bytes where all are zero
    low     five streams: the low bytes of the magnitudes of each group

A value's change is new - old of the two bit patterns modulo 2^16, read as a signed 16-bit number; its magnitude is the absolute value.
What a step does to a value depends on how large it is: small ones change often, by many units in the last place; large ones seldom, by one.
So each magnitude belongs to a group, by the exponent of the *old* bit pattern (bits 7 to 14) and the header's `pivot`: below pivot - 3;
pivot - 3; pivot - 2; pivot - 1; and the rest. Magnitudes and signs come by group, then by position.
Why: docs/decisions/0002-patches-carry-bit-pattern-differences.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import zstandard
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from liveloop.errors import BlobCorrupt
from liveloop.v1.weights_pb2 import PatchHeader
from liveloop.weights.store import BLOB_LIMIT

Bits = NDArray[np.uint16]
Positions = NDArray[np.int64]

CHUNK = BLOB_LIMIT // 2
"""Values in one chunk of a flat state: their bytes are one blob of a keyframe, and what is computed of them stays in the cache."""

_GROUPS = 5
_LAST = _GROUPS - 1
_STREAMS = 3 + _GROUPS
_EXPONENTS = 256
_LENGTH = 4
_HEADER_LIMIT = 256
_OFTEN = 3
"""Exponents of which at least one value in so many changes are below the pivot: a Huffman code takes a bit or more, a gap may take less."""
_SAMPLED, _OF = 128, 4096
"""One value in 32 is looked at to find the pivot, in runs of whole cache lines."""

# Little but Huffman codes: a table of 64 entries finds long runs, and hardly ever the chance repetitions that cost more than they save.
_PARAMETERS = zstandard.ZstdCompressionParameters(
    window_log=19, hash_log=6, chain_log=6, search_log=1, min_match=7, target_length=0, strategy=zstandard.STRATEGY_FAST
)


@dataclass(frozen=True, slots=True)
class Change:
    """How a range changes."""

    frames: list[bytes]  # one, or two of half the range where one would be larger than a blob; none where nothing changes
    positions: Positions  # sorted indices in the flat state
    values: Bits  # the new bit patterns there


def encode(old: Bits, new: Bits, *, start: int) -> Change:
    """How `old` becomes `new`: a range within one chunk, whose first value is the flat state's value `start`."""
    header = PatchHeader(format=1, start=start, length=len(old))
    header.pivot = _pivot(old, new)
    listed = np.flatnonzero(old != new)
    before, after = old[listed], new[listed]
    return Change(_frames(listed, before, after - before, header), listed + start, after)


def joined(frames: Iterable[bytes]) -> list[bytes]:
    """Frames as parts, each at most BLOB_LIMIT bytes."""
    parts: list[list[bytes]] = []
    size = BLOB_LIMIT
    for frame in frames:
        if size + len(frame) > BLOB_LIMIT:
            parts.append([])
            size = 0
        parts[-1].append(frame)
        size += len(frame)
    return [b"".join(part) for part in parts]


def decode(parts: Iterable[bytes], bits: Bits) -> Iterator[tuple[Positions, Bits, Bits]]:
    """For each frame of a patch the positions in `bits`, sorted, what is there, and what is to be there.

    They lie in one chunk, after those of the frame before. A frame is decoded when it is asked for, from the bits as they are then.

    Raises:
        BlobCorrupt: the patch is malformed. Nothing larger than a well-formed frame could need is allocated before it is known to be one.
    """
    end = 0
    for part in parts:
        if not 0 < len(part) <= BLOB_LIMIT:
            raise BlobCorrupt("a patch part is empty or larger than a blob")
        rest = memoryview(part)
        while rest:
            header, streams, rest = _split(rest)
            if not _is_sound(header, len(bits)):
                raise BlobCorrupt("a patch part is of an unknown format or does not fit the layout")
            if header.start < end:
                raise BlobCorrupt("the parts of a patch overlap")
            end = header.start + header.length
            listed, before, deltas = _decode_frame(header, streams, bits[header.start : end])
            yield listed + header.start, before, before + deltas


def _is_sound(header: PatchHeader, total: int) -> bool:
    within = header.start % CHUNK + header.length <= CHUNK and header.start + header.length <= total
    return header.format == 1 and 0 < header.count <= header.length and within and header.pivot <= _EXPONENTS


def _pivot(old: Bits, new: Bits) -> int:
    """Which pivot makes the frame small: judged by one value in 32."""
    whole = len(old) - len(old) % _OF
    old, new = (some[:whole].reshape(-1, _OF)[:, :_SAMPLED].ravel() if whole else some for some in (old, new))
    exponents, differs = _exponents(old), old != new
    there = np.bincount(exponents, minlength=_EXPONENTS)
    changed = np.bincount(exponents[differs], minlength=_EXPONENTS)
    often = np.flatnonzero((changed * _OFTEN >= there) & (changed > _OFTEN))
    return int(often[-1]) + 1 if len(often) else 0


def _exponents(old: Bits) -> NDArray[np.uint8]:
    return (old >> 7).astype(np.uint8)


@lru_cache
def _group_of(pivot: int) -> NDArray[np.uint8]:
    """The group of each exponent."""
    return np.clip(np.arange(_EXPONENTS) - (pivot - _LAST), 0, _LAST).astype(np.uint8)


def _by_group(old: Bits, pivot: int) -> tuple[Positions, list[int]]:
    """The order of values by group, and how many values each group has."""
    groups = _group_of(pivot).take(_exponents(old))
    sizes: list[int] = np.bincount(groups, minlength=_GROUPS).tolist()
    return np.argsort(groups, kind="stable"), sizes


def _frames(listed: Positions, old: Bits, deltas: Bits, header: PatchHeader) -> list[bytes]:
    """How the values that change in a range, those at `listed`, are coded."""
    if not len(listed):
        return []
    header.count = len(listed)
    frame = _frame(listed, old, deltas, header)
    if len(frame) <= BLOB_LIMIT:
        return [frame]
    half = header.length // 2  # only where almost every bit is new is a range longer as a frame than as it is
    first, second = PatchHeader(), PatchHeader()
    first.CopyFrom(header)
    second.CopyFrom(header)
    first.length, second.start, second.length = half, header.start + half, header.length - half
    cut = int(np.searchsorted(listed, half))
    tail = _frames(listed[cut:] - half, old[cut:], deltas[cut:], second)
    return _frames(listed[:cut], old[:cut], deltas[:cut], first) + tail


def _frame(listed: Positions, old: Bits, deltas: Bits, header: PatchHeader) -> bytes:
    order, sizes = _by_group(old, header.pivot)
    deltas = deltas[order]
    down = deltas > 0x7FFF
    magnitudes = np.where(down, np.negative(deltas), deltas)
    low, high = magnitudes.astype(np.uint8), (magnitudes >> 8).astype(np.uint8)
    compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS)
    streams = [
        _pack(compressor, _gaps(listed)),
        np.packbits(down).tobytes(),
        _pack(compressor, high if high.any() else high[:0]),
        *(_pack(compressor, group) for group in np.split(low, np.cumsum(sizes[:-1]))),
    ]
    header.streams[:] = [len(stream) for stream in streams]
    content = header.SerializeToString()
    return b"".join([len(content).to_bytes(_LENGTH, "little"), content, *streams])


def _gaps(indices: Positions) -> NDArray[np.uint8]:
    """The stream of gaps."""
    gaps = np.diff(indices, prepend=-1) - 1
    long = np.flatnonzero(gaps >= 255)
    if not len(long):
        return gaps.astype(np.uint8)
    runs = gaps[long] // 255
    gaps[long] -= 255 * runs
    return np.insert(gaps.astype(np.uint8), np.repeat(long, runs), 255)


def _split(rest: memoryview) -> tuple[PatchHeader, list[memoryview], memoryview]:
    """The first frame's header and streams, and what follows it."""
    end = _LENGTH + min(int.from_bytes(rest[:_LENGTH], "little"), _HEADER_LIMIT)
    try:
        header = PatchHeader.FromString(bytes(rest[_LENGTH:end]))
    except DecodeError as error:
        raise BlobCorrupt("a frame of a patch part has no header") from error
    if len(header.streams) != _STREAMS or end + sum(header.streams) > len(rest):
        raise BlobCorrupt("a frame of a patch part is not as long as its header says")
    streams = []
    for length in header.streams:
        streams.append(rest[end : end + length])
        end += length
    return header, streams, rest[end:]


def _decode_frame(header: PatchHeader, streams: list[memoryview], old: Bits) -> tuple[Positions, Bits, Bits]:
    """The indices in the range that change, what is there, and the differences."""
    gaps, signs, high, *low = streams
    decompressor = zstandard.ZstdDecompressor()
    listed = _indices(_unpack(decompressor, gaps, at_most=len(old)), len(old))
    if len(listed) != header.count or len(signs) != -(-header.count // 8):
        raise BlobCorrupt("a frame of a patch part changes another number of values than it says")
    before = old[listed]
    order, sizes = _by_group(before, header.pivot)
    stream = np.concatenate([_unpack(decompressor, some, at_least=size, at_most=size) for some, size in zip(low, sizes, strict=True)])
    magnitudes = stream.astype(np.uint16)
    if len(high):
        magnitudes |= _unpack(decompressor, high, at_least=len(order), at_most=len(order)).astype(np.uint16) << 8
    down = np.unpackbits(np.frombuffer(signs, np.uint8), count=header.count).astype(np.uint16)
    deltas = np.empty_like(magnitudes)
    deltas[order] = (magnitudes ^ np.negative(down)) + down
    return listed, before, deltas


def _indices(steps: NDArray[np.uint8], length: int) -> Positions:
    """The indices that the stream of gaps stands for."""
    if len(steps) and steps[-1] == 255:
        raise BlobCorrupt("a frame of a patch part has a gap that does not end")
    indices = np.cumsum(steps, dtype=np.int64)
    runs = steps == 255
    if runs.any():
        indices = indices[~runs]
    indices += np.arange(len(indices))
    if len(indices) and indices[-1] >= length:
        raise BlobCorrupt("a frame of a patch part changes values beyond its range")
    return indices


def _pack(compressor: zstandard.ZstdCompressor, stream: NDArray[np.uint8]) -> bytes:
    return compressor.compress(stream.data) if len(stream) else b""


def _unpack(decompressor: zstandard.ZstdDecompressor, stream: memoryview, *, at_least: int = 0, at_most: int) -> NDArray[np.uint8]:
    if not len(stream):
        if at_least:
            raise BlobCorrupt("a stream of a patch part is missing")
        return np.empty(0, np.uint8)
    try:
        declared = zstandard.frame_content_size(stream)
        if not max(at_least, 1) <= declared <= at_most:
            raise BlobCorrupt("a stream of a patch part declares an impossible length")
        unpacked = decompressor.decompress(stream, max_output_size=at_most, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BlobCorrupt("a stream of a patch part does not decompress") from error
    if len(unpacked) != declared:
        raise BlobCorrupt("a stream of a patch part is shorter than it declares")
    return np.frombuffer(unpacked, np.uint8)
