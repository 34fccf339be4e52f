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
from liveloop.weights.patch import CHUNK, Bits, decode, encode
from liveloop.weights.store import BLOB_LIMIT
from tests.weight_samples import finite_bits, patch_of

pairs = st.integers(0, 2000).flatmap(lambda size: st.tuples(*[arrays.arrays(np.uint16, size)] * 2))
LOW = (b"",) * 4


def patched(old: Bits, parts: list[bytes]) -> Bits:
    new = old.copy()
    for positions, before, after in decode(parts, new):
        assert np.array_equal(new[positions], before)
        new[positions] = after
    return new


def headers(parts: list[bytes]) -> list[PatchHeader]:
    """Those of all frames."""
    found, rest = [], b"".join(parts)
    while rest:
        end = 4 + int.from_bytes(rest[:4], "little")
        found.append(PatchHeader.FromString(rest[4:end]))
        rest = rest[end + sum(found[-1].streams) :]
    return found


def part_of(header: PatchHeader, *streams: bytes) -> bytes:
    content = header.SerializeToString()
    return len(content).to_bytes(4, "little") + content + b"".join(streams)


def forged(
    gaps: bytes = b"\x00",
    signs: bytes = b"\x00",
    high: bytes = b"",
    low: tuple[bytes, ...] = (*LOW, b"\x01"),
    **header: int,
) -> bytes:
    """One frame: by default one that adds 1 to the first of ten values."""
    streams = [zstandard.compress(stream) if stream else b"" for stream in (gaps, b"", high, *low)]
    streams[1] = signs
    fields = {"format": 1, "count": 1, "length": 10} | header
    return part_of(PatchHeader(streams=[len(stream) for stream in streams], **fields), *streams)


@given(pairs)
def test_decoding_what_was_encoded_is_exact(pair: tuple[Bits, Bits]) -> None:
    old, new = pair
    parts = patch_of(old, new)
    assert np.array_equal(patched(old, parts), new)
    assert sum(len(positions) for positions, _, _ in decode(parts, old.copy())) == np.count_nonzero(old != new)


@given(st.integers(0, 9), st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))
def test_whatever_depends_on_the_size_of_a_value_is_exact(seed: int, small: float, large: float, spread: int) -> None:
    rng = np.random.default_rng(seed)
    old = finite_bits(seed, 5000)
    changed = rng.random(len(old)) < np.where((old & 0x7FFF) < 0x3E80, small, large)
    new = old + np.where(changed, rng.integers(-spread, spread + 1, len(old)), 0).astype(np.uint16)
    assert np.array_equal(patched(old, patch_of(old, new)), new)


@given(st.lists(st.integers(0, 299_999), unique=True, max_size=20), st.integers(1, 65_535))
@example([0, 299_999], 1)
@example([254, 255, 256, 509, 510, 511, 766], 0x7F80)
def test_distant_changes_are_exact(positions: list[int], delta: int) -> None:
    old = np.zeros(300_000, np.uint16)
    new = old.copy()
    new[positions] = delta
    assert np.array_equal(patched(old, patch_of(old, new)), new)


def test_what_changed_is_told_with_its_new_values() -> None:
    old = finite_bits(0, 1000)
    for share in (0.01, 0.5):
        new = np.where(np.random.default_rng(1).random(1000) < share, old + 1, old).astype(np.uint16)
        change = encode(old, new, start=CHUNK)
        assert np.array_equal(change.positions, np.flatnonzero(old != new) + CHUNK)
        assert np.array_equal(change.values, new[old != new])


def test_nothing_changed_is_no_part() -> None:
    bits = np.arange(100, dtype=np.uint16)
    assert patch_of(bits, bits.copy()) == []
    assert patch_of(bits[:0], bits[:0]) == []


def test_every_bit_pattern_can_become_every_other() -> None:
    old = np.arange(65_536, dtype=np.uint16)  # every number, both zeros, infinities, every NaN
    for shift in (1, 2, 255, 256, 0x7F80, 0x8000, 0xFFFF):
        new = np.roll(old, shift)
        assert np.array_equal(patched(old, patch_of(old, new)), new)


def test_a_large_patch_comes_in_parts_that_fit_a_blob() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.integers(0, 65_536, (2, 2 * CHUNK + 1000), dtype=np.uint16)
    parts = patch_of(old, new)
    assert len(parts) == 4
    assert max(len(part) for part in parts) <= BLOB_LIMIT
    assert len(headers(parts)) == 5  # a chunk that is all new is longer than a blob: it comes in halves
    assert np.array_equal(patched(old, parts), new)


def test_small_frames_share_a_part() -> None:
    old = finite_bits(0, 5 * CHUNK)
    new = old.copy()
    new[::CHUNK] += 1
    (part,) = patch_of(old, new)
    assert [header.start for header in headers([part])] == [0, CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK]
    assert np.array_equal(patched(old, [part]), new)


def test_steps_of_one_unit_cost_less_than_their_new_values() -> None:
    rng = np.random.default_rng(0)
    old = rng.integers(0x3C00, 0x3F00, CHUNK, dtype=np.uint16)
    positions = np.flatnonzero(rng.random(len(old)) < 0.04)
    new = old.copy()
    new[positions] += rng.choice(np.array([1, 65_535], np.uint16), len(positions))
    raw = zstandard.compress(new[positions].tobytes(), 1)
    (part,) = patch_of(old, new)
    assert len(part) < len(raw)


def test_where_changes_depend_on_size_a_patch_is_below_the_entropy_of_independent_ones() -> None:
    """Smaller than P (H(p) + p) / 8: what the positions, and one bit for each change, take at least where size tells nothing."""
    rng = np.random.default_rng(0)
    old = finite_bits(0, CHUNK)
    exponents = (old >> 7 & 0xFF).astype(np.int64)
    new = old + (rng.random(len(old)) < np.minimum(0.03 * 2.0 ** (126 - exponents), 0.9)) * rng.choice([1, 65_535], len(old))
    new = new.astype(np.uint16)
    share = np.mean(old != new)
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert sum(len(part) for part in patch_of(old, new)) < 1.05 * len(old) * (entropy + share) / 8


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(BlobCorrupt):
        list(decode([content], np.zeros(1000, np.uint16)))


@given(st.data())
def test_a_damaged_part_is_refused_or_stays_within_the_layout(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    old, new = rng.integers(0, 65_536, (2, 500), dtype=np.uint16)
    part = bytearray(patch_of(old, new)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(part) // 2, len(part)))
    try:
        frames = list(decode([bytes(part[:cut])], old))
    except BlobCorrupt:
        return
    for positions, before, after in frames:
        assert len(positions) == len(before) == len(after) > 0
        assert 0 <= positions[0] <= positions[-1] < 500
        assert (np.diff(positions) > 0).all()


def test_the_forged_part_of_these_tests_is_sound() -> None:
    assert patched(np.zeros(10, np.uint16), [forged()]).tolist() == [1, *[0] * 9]


@pytest.mark.parametrize(
    "part",
    [
        forged(format=2),
        forged(count=0),
        forged(count=2),
        forged(count=2**63),
        forged(length=0),
        forged(length=11),
        forged(start=10),
        forged(start=1),
        forged(start=2**63),
        forged(start=2**64 - 1),
        forged(pivot=257),
        forged(b"\x0a"),  # position 10 of 10
        forged(b"\xff"),  # a gap that does not end
        forged(b"\x00\x00"),  # more gaps than values
        forged(b""),  # fewer
        forged(b"\x00" * 11, low=(*LOW, b"\x01" * 11)),
        forged(low=(*LOW, b"\x01\x01")),
        forged(low=(*LOW, b"")),
        forged(low=(b"\x01", *LOW)),  # the value is of another group
        forged(high=b"\x00\x00"),
        forged(signs=b""),
        forged(signs=b"\x00\x00"),
        part_of(PatchHeader(format=1, count=1, length=10, streams=[1] * 8), b"12345678"),
        part_of(PatchHeader(format=1, count=1, length=10, streams=[2**63] * 8), b"ab"),
        part_of(PatchHeader(format=1, count=1, length=10, streams=[0] * 7)),
        forged() + b"x",
        forged() + forged(),  # the same range twice
        b"\xff\xff\xff\xff",
        b"",
        bytes(BLOB_LIMIT + 1),
    ],
)
def test_a_part_that_lies_is_refused(part: bytes) -> None:
    with pytest.raises(BlobCorrupt):
        list(decode([part], np.zeros(10, np.uint16)))


def test_a_range_across_two_chunks_is_refused() -> None:
    with pytest.raises(BlobCorrupt, match="does not fit"):
        list(decode([forged(start=CHUNK - 1)], np.zeros(2 * CHUNK, np.uint16)))


def test_a_stream_that_declares_more_than_it_may_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.compress(bytes(1 << 26))
    header = PatchHeader(format=1, count=1, length=10, streams=[len(bomb)] * 8)
    with pytest.raises(BlobCorrupt, match="impossible length"):
        list(decode([part_of(header, *[bomb] * 8)], np.zeros(10, np.uint16)))


def test_a_stream_of_unknown_length_is_refused() -> None:
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(b"\x00")
    header = PatchHeader(format=1, count=1, length=10, streams=[len(unknown)] * 8)
    with pytest.raises(BlobCorrupt):
        list(decode([part_of(header, *[unknown] * 8)], np.zeros(10, np.uint16)))
