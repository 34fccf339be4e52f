"""The encoders that patches are compared with are real ones: what they encode comes back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.baselines import decode_sparse_values, decode_xor, encode_sparse_values, encode_xor, floor_bytes
from tests.weight_samples import finite_bits

BITS = st.integers(0, 0xFFFF)


@given(st.lists(st.tuples(BITS, BITS, st.booleans()), min_size=1, max_size=2000))
def test_both_frames_give_back_the_new_buffer(rows: list[tuple[int, int, bool]]):
    old = np.array([before for before, _, _ in rows], np.uint16)
    new = np.array([after if changes else before for before, after, changes in rows], np.uint16)
    assert np.array_equal(decode_sparse_values(old, encode_sparse_values(old, new)), new)
    assert np.array_equal(decode_xor(old, encode_xor(old, new)), new)


def test_a_gap_that_needs_more_than_a_byte_comes_back():
    old = finite_bits(total=100_000)
    new = old.copy()
    new[[0, 70_000, 99_999]] ^= 1
    assert np.array_equal(decode_sparse_values(old, encode_sparse_values(old, new)), new)


def test_the_floor_is_that_of_a_fair_coin_at_one_half_and_of_one_bit_a_value_where_all_change():
    assert floor_bytes(800, 400) == pytest.approx(800 * 1.5 / 8)
    assert floor_bytes(800, 800) == pytest.approx(100)
    assert floor_bytes(800, 0) == 0


def test_no_frame_of_random_ups_and_downs_is_below_the_floor():
    old = finite_bits(total=200_000)
    rng = np.random.default_rng(0)
    new = np.where(rng.random(len(old)) < 0.05, old + rng.choice(np.array([1, 0xFFFF], np.uint16), len(old)), old).astype(np.uint16)
    floor = floor_bytes(len(old), int((old != new).sum()))
    assert floor < len(encode_sparse_values(old, new))
    assert floor < len(encode_xor(old, new))
