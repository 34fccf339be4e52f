"""Off-policy estimates, on a world of which the truth is known: coverage, bias, variance, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from liveloop.errors import NotNow
from services.learner.intervals import Estimate
from services.learner.off_policy import ENOUGH, Rounds, doubly_robust, effective_sample_size, estimate, ips, snips

KINDS, ACTIONS, EPSILON = 6, 3, 0.3
RIGHT = np.array([0, 1, 2, 0, 1, 2])  # by the kind of input
REWARD = np.where(np.arange(ACTIONS) == RIGHT[:, None], 0.9, 0.15)  # the expected reward, [KINDS, ACTIONS]
LOGGED = np.array([0, 1, 0, 1, 1, 2])  # the logging policy's favourite
TARGET = np.array([0, 1, 2, 0, 2, 2])  # the target policy's choice
TRUTH = float(REWARD[np.arange(KINDS), TARGET].mean())
REPEATS = 500


def world(rng: np.random.Generator, rounds: int = 800, *, epsilon: float = EPSILON, model: np.ndarray = REWARD, judges: int = 0) -> Rounds:
    """An epsilon-greedy log: the favourite with 1 - epsilon, else one of all actions."""
    kind_N = rng.integers(KINDS, size=rounds)
    action_N = np.where(rng.random(rounds) < epsilon, rng.integers(ACTIONS, size=rounds), LOGGED[kind_N])
    propensity_N = epsilon / ACTIONS + (1 - epsilon) * (action_N == LOGGED[kind_N])
    return Rounds(
        action_N,
        propensity_N,
        (rng.random(rounds) < REWARD[kind_N, action_N]).astype(float),
        np.eye(ACTIONS)[TARGET[kind_N]],
        model[kind_N],
        rng.integers(judges, size=rounds) if judges else np.arange(rounds),
    )


@pytest.fixture(scope="module")
def repeated() -> dict[str, list[Estimate]]:
    rng = np.random.default_rng(0)
    found: dict[str, list[Estimate]] = {"ips": [], "snips": [], "doubly_robust": []}
    for _ in range(REPEATS):
        done = estimate(world(rng))
        for name, estimates in found.items():
            estimates.append(getattr(done, name))
    return found


@pytest.mark.parametrize("name", ["ips", "snips", "doubly_robust"])
def test_the_interval_covers_the_truth_as_often_as_it_says(repeated: dict[str, list[Estimate]], name: str):
    covered = sum(one.low <= TRUTH <= one.high for one in repeated[name])
    assert 0.925 <= covered / REPEATS <= 0.975


@pytest.mark.parametrize("name", ["ips", "snips", "doubly_robust"])
def test_no_estimate_is_biased(repeated: dict[str, list[Estimate]], name: str):
    values = np.array([one.value for one in repeated[name]])
    assert abs(values.mean() - TRUTH) < 4 * values.std() / np.sqrt(REPEATS)


def test_a_good_reward_model_and_normalised_weights_take_variance_away(repeated: dict[str, list[Estimate]]):
    variance = {name: np.var([one.value for one in found]) for name, found in repeated.items()}
    assert variance["snips"] < 0.6 * variance["ips"]
    assert variance["doubly_robust"] < 0.9 * variance["snips"]


def test_the_widths_are_those_of_the_spread(repeated: dict[str, list[Estimate]]):
    for found in repeated.values():
        spread = np.std([one.value for one in found])
        assert np.mean([one.high - one.low for one in found]) == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_doubly_robust_is_right_although_the_reward_model_is_wrong():
    rng = np.random.default_rng(1)
    wrong = 1.0 - REWARD
    values = [doubly_robust(world(rng, model=wrong)).value for _ in range(REPEATS)]
    assert abs(np.mean(values) - TRUTH) < 4 * np.std(values) / np.sqrt(REPEATS)


def test_the_formulas_by_hand():
    rounds = Rounds(
        np.array([0, 1, 0]),
        np.array([0.5, 0.25, 0.8]),
        np.array([1.0, 0.0, 1.0]),
        np.array([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]]),
        np.array([[0.5, 0.25], [0.5, 0.25], [0.5, 0.25]]),
        np.arange(3),
    )
    weights = [2.0, 2.0, 0.25]
    assert list(rounds.weight_N) == pytest.approx(weights)
    assert ips(rounds).value == pytest.approx((2.0 + 0.25) / 3)
    assert snips(rounds).value == pytest.approx(2.25 / 4.25)
    expected = [0.5 + 2.0 * 0.5, 0.375 - 2.0 * 0.25, 0.3 + 0.25 * 0.5]
    assert doubly_robust(rounds).value == pytest.approx(sum(expected) / 3)
    assert effective_sample_size(rounds.weight_N) == pytest.approx(4.25**2 / (4 + 4 + 0.0625))


def test_the_weights_of_one_person_are_not_taken_for_those_of_many():
    rng = np.random.default_rng(2)
    rounds = world(rng)
    said_fourfold = Rounds(
        *(
            np.repeat(array, 4, axis=0)
            for array in (rounds.action_N, rounds.propensity_N, rounds.reward_N, rounds.target_NK, rounds.modelled_NK, rounds.judge_N)
        )
    )
    once, fourfold = estimate(rounds), estimate(said_fourfold)
    for name in ("ips", "snips", "doubly_robust"):
        one, four = getattr(once, name), getattr(fourfold, name)
        assert (four.value, four.low, four.high) == pytest.approx((one.value, one.low, one.high))


def test_rounds_that_were_not_left_to_chance_are_left_out_and_counted():
    rng = np.random.default_rng(3)
    chance, certain = world(rng), world(rng, 300, epsilon=0.0)
    parts = ("action_N", "propensity_N", "reward_N", "target_NK", "modelled_NK", "judge_N")
    both = estimate(Rounds(*(np.concatenate([getattr(chance, name), getattr(certain, name)]) for name in parts)))
    assert (both.rounds, both.deterministic) == (800, 300)
    assert both.snips == estimate(chance).snips


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda rng: world(rng, 0), "nothing to estimate from"),
        (lambda rng: world(rng, epsilon=0.0), "deterministic"),
        (lambda rng: world(rng, judges=29), "29 people"),
        (lambda rng: world(rng, ENOUGH), "tells as much as"),
    ],
)
def test_a_log_that_cannot_tell_is_refused_with_the_reason(make: Callable[[np.random.Generator], Rounds], why: str):
    with pytest.raises(NotNow, match=why):
        estimate(make(np.random.default_rng(4)))


def test_what_was_never_chosen_is_not_estimated():
    rounds = world(np.random.default_rng(5))
    with pytest.raises(NotNow, match="never chose"):
        estimate(rounds.only(rounds.action_N != 2))


def test_propensities_that_are_not_the_policys_are_found_out():
    rounds = world(np.random.default_rng(6))
    halved = Rounds(rounds.action_N, rounds.propensity_N / 2, rounds.reward_N, rounds.target_NK, rounds.modelled_NK, rounds.judge_N)
    with pytest.raises(NotNow, match="should be 1"):
        estimate(halved)
