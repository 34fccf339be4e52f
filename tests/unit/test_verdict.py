"""Paired comparisons and what follows from them."""

from __future__ import annotations

import pytest

from services.learner.verdict import Comparison, Decision, Verdicts, compare


def answers(split: str, *right: bool) -> dict[str, bool]:
    return {f"{split}:{number}": one for number, one in enumerate(right)}


def lost(rows: int, wrong: int, split: str = "task") -> dict[str, bool]:
    """Answers of which the first `wrong` are wrong."""
    return answers(split, *[number >= wrong for number in range(rows)])


def test_only_rows_that_both_answered_and_differ_on_carry_an_error():
    found = compare({**lost(100, 12), "task:extra": False}, {**lost(100, 3), "feedback:1": True})
    assert found == Comparison(100, pytest.approx(0.09), pytest.approx(3 / 100))


def test_rows_won_back_take_from_the_drop_and_add_to_the_error():
    ours, theirs = answers("task", *[True] * 50, *[False] * 50), answers("task", *[False] * 34, *[True] * 66)
    assert compare(ours, theirs) == Comparison(100, pytest.approx(0.16), pytest.approx((50 + 34) ** 0.5 / 100))


def test_large_splits_weigh_alike_and_small_ones_by_their_rows():
    large = compare({**lost(1000, 100), **lost(200, 0, "new")}, {**lost(1000, 0), **lost(200, 0, "new")})
    assert large.drop == pytest.approx(0.05)
    small = compare({**lost(200, 0), **lost(5, 5, "new")}, {**lost(200, 0), **lost(5, 0, "new")})
    assert small.drop == pytest.approx(5 / 205)


def test_what_a_new_domain_gains_outweighs_what_the_old_one_loses_a_little():
    ours = {**lost(300, 30), **lost(300, 60, "feedback")}
    theirs = {**lost(300, 18), **lost(300, 84, "feedback")}
    assert compare(ours, theirs).drop < 0 < compare(lost(300, 30), lost(300, 18)).drop


def test_what_one_blessed_version_had_by_luck_is_not_held_against_the_next():
    ours, lucky = lost(500, 30), lost(500, 16)
    assert compare(ours, lucky).is_beyond(3.0, 0.01)
    found = compare(ours, lucky, [lost(500, 30), lost(250, 30)])  # the second did not see all rows
    assert found.drop == pytest.approx(14 / 3 / 500) and not found.is_beyond(3.0, 0.01)
    assert found.error == pytest.approx((14 / 9) ** 0.5 / 500)


def judge(verdicts: Verdicts, drop: float, error: float = 0.005, rows: int = 500) -> Decision:
    return verdicts.after_all(rows, {7: Comparison(rows, drop, error)}).decision


def test_a_version_is_taken_back_when_two_evaluations_running_fail():
    verdicts = Verdicts()
    assert [judge(verdicts, drop) for drop in (0.02, 0.0, 0.02)] == [Decision.WATCH, Decision.BLESS, Decision.WATCH]
    found = verdicts.after_all(500, {7: Comparison(500, 0.02, 0.005)})
    assert (found.decision, found.to) == (Decision.ROLLBACK, 7) and "2.0 points" in found.why


@pytest.mark.parametrize(("drop", "error"), [(0.02, 0.01), (0.009, 0.001)])
def test_neither_a_clear_trifle_nor_an_unclear_loss_is_ever_taken_back(drop: float, error: float):
    verdicts = Verdicts()
    assert Decision.ROLLBACK not in {judge(verdicts, drop, error) for _ in range(5)}


def test_a_loss_of_a_point_keeps_a_version_from_being_blessed():
    assert judge(Verdicts(), 0.011, 0.01) is Decision.WATCH and judge(Verdicts(), 0.009, 0.01) is Decision.BLESS


def test_too_few_rows_decide_nothing():
    verdicts = Verdicts()
    assert verdicts.at_once({7: compare(lost(31, 31), lost(31, 0))}) is None
    assert [judge(verdicts, 1.0, 0.01, rows=31) for _ in range(3)] == [Decision.WATCH] * 3
    assert judge(verdicts, 0.0, rows=31) is Decision.WATCH


def test_a_collapse_is_taken_back_at_once_and_a_bad_moment_is_not():
    assert Verdicts().at_once({7: compare(lost(48, 17), lost(48, 0))})
    assert not Verdicts().at_once({7: compare(lost(48, 16), lost(48, 0))})
    assert not Verdicts().at_once({7: Comparison(500, 0.09, 0.01)})


def test_it_goes_back_to_whoever_beats_it_by_most():
    found = Verdicts().at_once({7: Comparison(500, 0.2, 0.01), 3: Comparison(500, 0.3, 0.01), 5: Comparison(500, 0.05, 0.01)})
    assert found is not None and found.to == 3


def test_a_rollback_clears_the_suspicion():
    verdicts = Verdicts()
    assert judge(verdicts, 0.02) is Decision.WATCH
    verdicts.begin_anew()
    assert judge(verdicts, 0.02) is Decision.WATCH
