"""The guard's error rates on simulated versions: a small seeded part of what benchmarks/guard_simulation.py prints."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.guard_simulation import LONG, SHORT, Split, _differing, _turns, _wander, false_rollbacks, until_caught

SPLITS = (Split(300, 0.90), Split(300, 0.80, renewed=0.02))


def test_equal_versions_are_not_taken_back():
    assert sum(false_rollbacks(SPLITS, 200, seed) for seed in range(3)) == 0


@pytest.mark.parametrize(("loss", "within"), [(0.10, 3.0), (0.40, 0.5)])
def test_the_worse_a_version_is_the_sooner_it_is_caught(loss: float, within: float):
    assert np.median([until_caught(SPLITS, loss, seed, limit=20) for seed in range(5)]) <= within


def test_held_out_feedback_helps_to_catch_a_small_loss():
    alone = [until_caught(SPLITS[:1], 0.04, seed, limit=40) for seed in range(5)]
    both = [until_caught(SPLITS, 0.04, seed, limit=40) for seed in range(5)]
    assert np.median(both) <= np.median(alone) and np.median(both) < 40


def test_simulated_versions_differ_as_much_as_recorded_ones():
    scale, keeps = _wander([0.85])
    assert _differing(0.85, scale, 0.0) == pytest.approx(LONG, abs=0.01) and _differing(0.85, scale, keeps) == pytest.approx(
        SHORT, abs=0.005
    )


def test_splits_take_turns_until_the_short_ones_are_through():
    assert [_turns([10, 4], rows) for rows in (1, 8, 9, 14)] == [[1, 0], [4, 4], [5, 4], [10, 4]]
