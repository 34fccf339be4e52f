"""The canary's decisions: what users of two channels say becomes a promotion, a rollback, or nothing yet."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from liveloop.weights.channels import Channel
from services.learner.canary import ENOUGH, Decision, Judgement, Work, decide

CURRENT, BLESSED = Channel.CURRENT, Channel.BLESSED


def said(channel: Channel, downs: int, of: int) -> list[Judgement]:
    """`of` judges, `downs` of whom say wrong, spread evenly."""
    return [
        Judgement(channel, f"{channel}-{judge}".encode(), float((judge + 1) * downs // of > judge * downs // of)) for judge in range(of)
    ]


def mixed(*parts: Iterable[Judgement]) -> list[Judgement]:
    """In an order of time in which both channels are judged all along."""
    judgements = [judgement for part in parts for judgement in part]
    order = np.random.default_rng(0).permutation(len(judgements))
    return [judgements[place] for place in order]


def decision(*parts: Iterable[Judgement], current: Work | None = None, blessed: Work | None = None) -> Decision:
    return decide(mixed(*parts), {CURRENT: current or Work(), BLESSED: blessed or Work()}).decision


def test_equal_versions_are_promoted_once_enough_users_said_so():
    assert decision(said(CURRENT, 5, ENOUGH - 1), said(BLESSED, 50, 1000)) is Decision.WATCH
    assert decision(said(CURRENT, 20, 800), said(BLESSED, 200, 8000)) is Decision.PROMOTE
    assert decision(said(CURRENT, 0, ENOUGH), said(BLESSED, 100, 1000)) is Decision.PROMOTE


def test_a_little_worse_is_watched():
    assert decision(said(CURRENT, 240, 1000), said(BLESSED, 1800, 9000)) is Decision.WATCH


def test_a_version_that_users_call_wrong_far_more_often_is_rolled_back_and_the_reason_says_how_often():
    finding = decide(mixed(said(CURRENT, 30, 60), said(BLESSED, 60, 600)), {})
    assert finding.decision is Decision.ROLLBACK
    assert "current 50.0 % of 60, blessed 10.0 % of 600" in finding.why


def test_a_handful_of_judges_decides_nothing():
    assert decision(said(CURRENT, 9, 9), said(BLESSED, 0, 600)) is Decision.WATCH


def test_one_judge_counts_once_however_often_he_judges():
    vandal = [Judgement(CURRENT, b"vandal", 1.0)] * 500
    assert decision(vandal, said(CURRENT, 5, 50), said(BLESSED, 100, 1000)) is Decision.WATCH
    flatterer = [Judgement(CURRENT, b"flatterer", 0.0)] * 500
    assert decision(flatterer, said(BLESSED, 100, 1000)) is Decision.WATCH


def test_a_sudden_fall_is_not_hidden_by_what_was_good_before_it():
    before = mixed(said(CURRENT, 90, 900), said(BLESSED, 900, 9000))
    fall = [Judgement(CURRENT, f"late-{judge}".encode(), float(judge % 2)) for judge in range(100)]
    late = [Judgement(BLESSED, f"other-{judge}".encode(), float(judge % 10 == 0)) for judge in range(900)]
    assert decide(mixed(fall, late) + before, {}).decision is Decision.ROLLBACK


def test_a_version_that_cannot_be_computed_is_rolled_back_without_a_single_judgement():
    assert decision(current=Work(failed=40), blessed=Work(answered=1000, batches=100, seconds=1.0)) is Decision.ROLLBACK
    assert decision(current=Work(answered=999, failed=1), blessed=Work(answered=1000, batches=100, seconds=1.0)) is Decision.WATCH


def test_a_slower_version_is_not_promoted_but_smaller_batches_are_no_fault():
    judged = said(CURRENT, 0, ENOUGH), said(BLESSED, 100, 1000)
    blessed = Work(answered=1000, batches=100, seconds=100 * (0.005 + 10 * 0.001))
    assert decision(*judged, current=Work(answered=100, batches=100, seconds=100 * 0.006), blessed=blessed) is Decision.PROMOTE
    assert decision(*judged, current=Work(answered=100, batches=100, seconds=100 * 0.06), blessed=blessed) is Decision.WATCH
    blessed = Work(answered=100, batches=100, seconds=100 * 0.006)
    assert decision(*judged, current=Work(answered=1000, batches=100, seconds=100 * 0.015), blessed=blessed) is Decision.PROMOTE


def ends(rate: float, other_rate: float, *, runs: int, judgements: int) -> list[Decision]:
    """How each of `runs` canaries of a tenth of new judges ends, looked at after every 200 judgements."""
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        channels = rng.random(judgements) < 0.1
        downs = rng.random(judgements) < np.where(channels, rate, other_rate)
        stream = [
            Judgement(CURRENT if current else BLESSED, str(index).encode(), float(down))
            for index, (current, down) in enumerate(zip(channels, downs, strict=True))
        ][::-1]
        looks = (decide(stream[-count:], {}).decision for count in range(200, judgements + 1, 200))
        found.append(next((look for look in looks if look is not Decision.WATCH), Decision.WATCH))
    return found


def test_of_equal_versions_none_is_rolled_back_and_most_are_promoted():
    found = ends(0.1, 0.1, runs=20, judgements=6000)
    assert found.count(Decision.ROLLBACK) == 0
    assert found.count(Decision.PROMOTE) > math.ceil(0.6 * len(found))


def test_a_version_twenty_points_worse_is_always_rolled_back():
    assert set(ends(0.3, 0.1, runs=20, judgements=3000)) == {Decision.ROLLBACK}
