"""The patch codec gives back exactly what went in, and nothing that is sent to it does harm."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from liveloop.errors import BlobCorrupt
from liveloop.v1.weights_pb2 import PatchHeader
from liveloop.weights.patch import PART_COUNT, Bits, decode, encode, encode_changes
from liveloop.weights.store import BLOB_LIMIT

pairs = st.integers(0, 2000).flatmap(lambda size: st.tuples(*[arrays.arrays(np.uint16, size)] * 2, st.integers(0, size)))


def patched(old: Bits, parts: list[bytes]) -> Bits:
    new = old.copy()
    for part in parts:
        positions, deltas = decode(part, total=len(old))
        new[positions] += deltas
    return new


def part_of(header: PatchHeader, *streams: bytes) -> bytes:
    content = header.SerializeToString()
    return len(content).to_bytes(4, "little") + content + b"".join(streams)


def forged(gaps: bytes, low: bytes = b"\x02", high: bytes = b"\x00", *, start: int = 0, count: int = 1, part_format: int = 1) -> bytes:
    streams = [zstandard.compress(stream) for stream in (gaps, low, high)]
    lengths = [len(stream) for stream in streams]
    return part_of(PatchHeader(format=part_format, start=start, count=count, streams=lengths), *streams)


@given(pairs)
def test_decoding_what_was_encoded_is_exact(pair: tuple[Bits, Bits, int]) -> None:
    old, new, start = pair
    new[:start] = old[:start]
    parts = encode(old, new, start=start)
    assert np.array_equal(patched(old, parts), new)
    assert sum(len(decode(part, total=len(old))[0]) for part in parts) == np.count_nonzero(old != new)


@given(st.lists(st.integers(0, 299_999), unique=True, max_size=20), st.integers(1, 65_535))
@example([0, 299_999], 1)
@example([254, 255, 256, 509, 510, 511, 766], 0x7F80)
def test_distant_changes_are_exact(positions: list[int], delta: int) -> None:
    old = np.zeros(300_000, np.uint16)
    new = old.copy()
    new[positions] = delta
    assert np.array_equal(patched(old, encode(old, new, start=0)), new)


def test_nothing_changed_is_no_part() -> None:
    bits = np.arange(100, dtype=np.uint16)
    assert encode(bits, bits.copy(), start=0) == []
    assert encode(bits[:0], bits[:0], start=0) == []


def test_every_bit_pattern_can_become_every_other() -> None:
    old = np.arange(65_536, dtype=np.uint16)  # every number, both zeros, infinities, every NaN
    for shift in (1, 2, 255, 256, 0x7F80, 0x8000, 0xFFFF):
        new = np.roll(old, shift)
        assert np.array_equal(patched(old, encode(old, new, start=0)), new)


def test_a_large_patch_comes_in_parts_that_fit_a_blob() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.integers(0, 65_536, (2, 2 * PART_COUNT + 1000), dtype=np.uint16)
    parts = encode(old, new, start=0)
    assert len(parts) == 3
    assert max(len(part) for part in parts) <= BLOB_LIMIT
    assert np.array_equal(patched(old, parts), new)


def test_a_part_with_long_gaps_is_cut_until_it_fits() -> None:
    rng = np.random.default_rng(0)
    positions = np.cumsum(rng.integers(1, 10_000, PART_COUNT))
    deltas = rng.integers(1, 65_536, PART_COUNT, dtype=np.uint16)
    parts = encode_changes(positions, deltas, start=0)
    assert len(parts) == 2
    assert max(len(part) for part in parts) <= BLOB_LIMIT
    decoded = [decode(part, total=int(positions[-1]) + 1) for part in parts]
    assert np.array_equal(np.concatenate([found for found, _ in decoded]), positions)
    assert np.array_equal(np.concatenate([found for _, found in decoded]), deltas)


def test_steps_of_one_unit_cost_less_than_their_new_values() -> None:
    rng = np.random.default_rng(0)
    old = rng.integers(0x3C00, 0x3F00, 1_000_000, dtype=np.uint16)
    positions = np.flatnonzero(rng.random(len(old)) < 0.04)
    new = old.copy()
    new[positions] += rng.choice(np.array([1, 65_535], np.uint16), len(positions))
    raw = zstandard.compress(new[positions].tobytes(), 1)
    (part,) = encode(old, new, start=0)
    assert len(part) < len(raw)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(BlobCorrupt):
        decode(content, total=1000)


@given(st.data())
def test_a_damaged_part_is_refused_or_stays_within_the_layout(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    old, new = rng.integers(0, 65_536, (2, 500), dtype=np.uint16)
    part = bytearray(encode(old, new, start=0)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(part) // 2, len(part)))
    try:
        positions, deltas = decode(bytes(part[:cut]), total=500)
    except BlobCorrupt:
        return
    assert len(positions) == len(deltas) > 0
    assert positions[0] >= 0
    assert positions[-1] < 500
    assert (np.diff(positions) > 0).all()


@pytest.mark.parametrize(
    "part",
    [
        forged(b"\x00", part_format=2),
        forged(b"", b"", b"", count=0),
        forged(b"\x0a", start=0),  # position 10 of 10
        forged(b"\x00", start=10),
        forged(b"\x00", start=2**63),
        forged(b"\xff"),  # a gap that does not end
        forged(b"\x00\x00"),  # more gaps than values
        forged(b"\x00", count=2),  # fewer
        forged(b"\x00", b"\x02\x02"),
        forged(b"\x00" * 5, b"\x02" * 5, b"\x00" * 5, count=2**40),
        forged(b"\xff" * 1000 + b"\x00"),  # longer than the layout
        part_of(PatchHeader(format=1, count=1, streams=[1, 1]), b"ab"),
        part_of(PatchHeader(format=1, count=1, streams=[2**63, 0, 0]), b"ab"),
        forged(b"\x00") + b"x",
        b"\xff\xff\xff\xff",
        b"",
    ],
)
def test_a_part_that_lies_is_refused(part: bytes) -> None:
    with pytest.raises(BlobCorrupt):
        decode(part, total=10)


def test_a_stream_that_declares_more_than_it_may_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.compress(bytes(1 << 26))
    header = PatchHeader(format=1, count=1, streams=[len(bomb)] * 3)
    with pytest.raises(BlobCorrupt, match="impossible length"):
        decode(part_of(header, bomb, bomb, bomb), total=10)


def test_a_stream_of_unknown_length_is_refused() -> None:
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(b"\x00")
    header = PatchHeader(format=1, count=1, streams=[len(unknown)] * 3)
    with pytest.raises(BlobCorrupt):
        decode(part_of(header, unknown, unknown, unknown), total=10)
