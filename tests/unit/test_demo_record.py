"""The demo's figures: rolling accuracy, freshness, intervals."""

from __future__ import annotations

import random

import pytest

from services.commands.demo_record import Record, Shown, estimate, gain
from services.commands.freshness import Thumb, percentile


def test_freshness_runs_from_the_acknowledgement_to_the_first_answer_of_a_version_that_includes_the_thumb():
    record = Record()
    for version, at in ((1, 0.0), (1, 1.0), (3, 2.0), (3, 3.0), (4, 5.0)):
        record.answered(version, at)
    record.thumbs = [Thumb("a", "a", 0.5, version=2), Thumb("b", "b", 1.5, version=3), Thumb("c", "c", 2.5, version=4)]
    assert record.seconds() == [1.5, 0.5, 2.5]


def test_thumbs_that_no_answered_version_includes_have_no_freshness():
    record = Record()
    record.answered(2, 1.0)
    record.thumbs = [Thumb("held out", "a", 0.5, ended=True), Thumb("not served yet", "b", 0.5, version=3)]
    assert record.seconds() == []
    assert record.trained == 1
    assert [thumb.prediction_id for thumb in record.waiting] == ["not served yet"]


def test_the_curves_average_the_last_answers_only():
    record = Record(shown=[Shown(right, not right) for right in (True, True, False, False)])
    loop, frozen = record.curves(2)
    assert loop == [1.0, 1.0, 0.5, 0.0]
    assert frozen == [0.0, 0.0, 0.5, 1.0]


def test_a_gain_counts_only_texts_whose_answer_changed():
    found = gain([True, False, False, True], [True, True, False, True])
    assert found.value == 0.25
    assert found.low < 0.25 < found.high
    assert gain([True, False], [True, False]).high == 0.0


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = random.Random(0)
    covered = 0
    for _ in range(1000):
        found = estimate([float(rng.random() < 0.7) for _ in range(400)])
        covered += found.low <= 0.7 <= found.high
    assert 920 <= covered <= 975


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_one_of_the_values(share: float, expected: int):
    assert percentile(list(range(1, 101)), share) == expected


def test_nothing_has_no_percentile():
    assert percentile([], 0.5) is None
