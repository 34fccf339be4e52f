"""Intervals: the published examples, and what they promise on data of which the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.learner.intervals import Z_95, Share, clustered_error, clustered_share, difference, groups, paired, paired_by_judge, share


def test_the_intervals_are_the_published_ones():
    # Newcombe 1998, tables II of both papers: 81/263 by Wilson; 56/70 - 48/80 by his method 10.
    assert Share(81, 263).interval(1.95996) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert difference(Share(56, 70), Share(48, 80), 1.95996) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_a_difference_lies_in_its_interval_and_turns_with_its_sign(downs: int, ups: int, other_downs: int, other_ups: int):
    one, other = Share(downs, downs + ups), Share(other_downs, other_downs + other_ups)
    low, high = difference(one, other, 1.96)
    assert low <= one.value - other.value <= high
    turned = difference(other, one, 1.96)
    assert (-turned[1], -turned[0]) == pytest.approx((low, high))


def test_a_paired_difference_is_agresti_and_mins_with_half_a_row_in_each_cell():
    ours = [True] * 60 + [True] * 12 + [False] * 5 + [False] * 23
    theirs = [True] * 60 + [False] * 12 + [True] * 5 + [False] * 23
    found = paired(ours, theirs)
    assert found.value == pytest.approx(0.07)
    middle, error = 7 / 102, math.sqrt((12.5 + 5.5) - 49 / 102) / 102
    assert (found.low, found.high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error))


def test_versions_that_answer_alike_do_not_differ_and_the_interval_is_not_empty():
    found = paired([True, False] * 50, [True, False] * 50)
    assert found.value == 0.0 and found.low < 0.0 < found.high


def test_the_intervals_of_shares_and_pairs_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    shares = pairs = 0
    for _ in range(1500):
        easy = rng.random(150) < 0.6
        ours, theirs = easy | (rng.random(150) < 0.3), easy | (rng.random(150) < 0.2)
        found = share(list(ours))
        shares += found.low <= 0.6 + 0.4 * 0.3 <= found.high
        found = paired(list(ours), list(theirs))
        pairs += found.low <= 0.4 * 0.1 <= found.high
    assert 0.92 <= shares / 1500 <= 0.98
    assert 0.92 <= pairs / 1500 <= 0.98


def by_judges(rng: np.random.Generator, judges: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Judgements by people with habits of their own, some of whom say a lot; the expected mean is 0.7."""
    said, by = [], []
    for judge in range(judges):
        habit = rng.beta(3.5, 1.5)
        count = int(rng.integers(1, most))
        said += list((rng.random(count) < habit).astype(float))
        by += [judge] * count
    return np.array(said), np.array(by)


def test_judgements_of_one_person_count_for_less_so_that_the_interval_still_covers():
    rng = np.random.default_rng(2)
    clustered = naive = 0
    for _ in range(300):
        said, by = by_judges(rng, 100, 30)
        low, high = clustered_share(said, by).interval(Z_95)
        clustered += low <= 0.7 <= high
        low, high = Share(said.sum(), len(said)).interval(Z_95)
        naive += low <= 0.7 <= high
    assert 0.91 <= clustered / 300 <= 0.985
    assert naive / 300 < 0.8


def test_a_paired_difference_by_judge_covers_the_truth_and_is_never_narrower_than_of_rows_alone():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        judges = np.repeat(np.arange(60), rng.integers(1, 12, size=60))
        wins, losses = rng.beta(1, 4, size=60)[judges], rng.beta(1, 9, size=60)[judges]
        luck = rng.random(len(judges))
        ours, theirs = (luck < wins), (luck > 1 - losses)
        found, alone = paired_by_judge(ours, theirs, judges), paired(ours, theirs)
        assert found.low <= alone.low and alone.high <= found.high
        covered += found.low <= 0.2 - 0.1 <= found.high
    assert 0.9 <= covered / 300 <= 0.985


def test_independent_judgements_lose_almost_nothing_and_the_same_word_of_all_counts_once_a_judge():
    said = np.array([1.0, 0.0, 1.0, 1.0] * 50)
    alone = clustered_share(said, np.arange(200))
    assert alone.value == pytest.approx(0.75) and 198.0 < alone.of <= 200.0
    assert clustered_share(np.ones(200), np.arange(200) % 10).of == 10.0
    assert clustered_share(said, np.zeros(200, dtype=np.int64)).of == 1.0


def test_of_one_group_the_error_is_not_known():
    assert clustered_error(np.array([0.5, -0.5]), np.array([0, 0])) == math.inf
    assert list(groups([b"b", b"a", b"b"])) == [1, 0, 1]
