"""What a policy would have earned, from what another one logged: IPS, SNIPS and doubly robust. Pure: knows numbers, no journal, no model.

A round is an input x, the action a that the logging policy chose with probability p (its propensity), and the reward r in [0, 1] that
came. The target policy would have chosen a with probability pi(a | x): the round stands for w = pi(a | x) / p rounds of the target's.
What is estimated is the target's mean reward on inputs like these.

The intervals are those of the central limit theorem, from the influence of each round on the estimate, summed over what one judge said
(`clustered_error`). A bootstrap would give the same for many rounds, but other numbers every time; for few rounds or weights with a long
tail both fail: those are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from liveloop.errors import NotNow
from services.learner.intervals import Z_95, Estimate, Floats, clustered_error

ENOUGH = 50
"""Rounds' worth of weights below which nothing is estimated: the intervals would be too narrow."""
JUDGES = 30
"""Judges below which nothing is estimated: what few people say is no sample of what others would."""
_UNSUPPORTED = 0.01
"""Share of the target's choices that the log never saw, beyond which it is not estimated: the bias is that much at most."""
_OFF = 4.0
"""Standard errors from 1 at which the mean weight says that the propensities are not those of the log."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """What was logged, and what the target would have done. N rounds, K actions."""

    action_N: npt.NDArray[np.int64]  # chosen by the logging policy
    propensity_N: Floats  # probability with which it did, in (0, 1]
    reward_N: Floats  # in [0, 1]
    target_NK: Floats  # probability with which the target chooses each action
    modelled_NK: Floats  # the reward that a model expects of each action; it must not have seen these rewards
    judge_N: npt.NDArray[np.int64]  # number of who gave the reward, from 0

    def __len__(self) -> int:
        return len(self.action_N)

    def chosen(self, values_NK: Floats) -> Floats:
        """The values of the logged actions, [N]."""
        return np.take_along_axis(values_NK, self.action_N[:, None], axis=1)[:, 0]

    @property
    def weight_N(self) -> Floats:
        """How many of the target's rounds each one stands for."""
        return self.chosen(self.target_NK) / self.propensity_N

    def only(self, kept_N: npt.NDArray[np.bool_]) -> Rounds:
        """Those of the rounds that are kept."""
        return Rounds(
            self.action_N[kept_N],
            self.propensity_N[kept_N],
            self.reward_N[kept_N],
            self.target_NK[kept_N],
            self.modelled_NK[kept_N],
            self.judge_N[kept_N],
        )


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """What is known of the target policy's reward."""

    rounds: int  # logged by a policy that left something to chance
    deterministic: int  # rounds that were logged with propensity 1: they say nothing of other choices and are left out
    judges: int
    effective: float  # sample size
    logged: Estimate  # what the logging policy itself earned
    ips: Estimate
    snips: Estimate
    doubly_robust: Estimate


def estimate(rounds: Rounds) -> OffPolicy:
    """All three. Raises NotNow, saying why, where the log cannot tell."""
    chance = rounds.only(rounds.propensity_N < 1.0)
    _check(rounds, chance)
    return OffPolicy(
        len(chance),
        len(rounds) - len(chance),
        _judges(chance),
        effective_sample_size(chance.weight_N),
        _mean(chance.reward_N, chance),
        ips(chance),
        snips(chance),
        doubly_robust(chance),
    )


def effective_sample_size(weight_N: Floats) -> float:
    """(sum w)^2 / sum w^2: how many rounds of equal weight would tell as much (Kish 1965); 0 of none."""
    squares = float(weight_N @ weight_N)
    return float(weight_N.sum()) ** 2 / squares if squares else 0.0


def ips(rounds: Rounds) -> Estimate:
    """Inverse propensity scoring, mean(w r) (Horvitz and Thompson 1952, JASA 47:663). Unbiased; the variance grows with the weights."""
    return _mean(rounds.weight_N * rounds.reward_N, rounds)


def snips(rounds: Rounds) -> Estimate:
    """Self-normalised, sum(w r) / sum(w) (Swaminathan and Joachims 2015, NeurIPS): a bias of order 1/N for far less variance.

    By the delta method for a ratio, round i's influence is w_i (r_i - estimate) / mean(w).
    """
    weight_N = rounds.weight_N
    value = float(weight_N @ rounds.reward_N / weight_N.sum())
    return _interval(value, weight_N * (rounds.reward_N - value) / weight_N.mean(), rounds)


def doubly_robust(rounds: Rounds) -> Estimate:
    """mean(sum_a pi(a | x) q(x, a) + w (r - q(x, a_logged))) with the modelled reward q (Dudik, Langford, Li 2011, arXiv 1103.4601).

    Unbiased where the propensities are right, whatever q; the better q, the smaller the variance.
    """
    expected_N = (rounds.target_NK * rounds.modelled_NK).sum(axis=1)
    return _mean(expected_N + rounds.weight_N * (rounds.reward_N - rounds.chosen(rounds.modelled_NK)), rounds)


def _mean(term_N: Floats, rounds: Rounds) -> Estimate:
    value = float(term_N.mean())
    return _interval(value, term_N - value, rounds)


def _interval(value: float, influence_N: Floats, rounds: Rounds) -> Estimate:
    half = Z_95 * clustered_error(influence_N, rounds.judge_N)
    return Estimate(value, value - half, value + half)


def _judges(rounds: Rounds) -> int:
    return len(np.unique(rounds.judge_N))


def _check(rounds: Rounds, chance: Rounds) -> None:
    if not len(rounds):
        raise NotNow("no answer that this version did not learn from was judged: there is nothing to estimate from")
    if not len(chance):
        raise NotNow(
            f"all {len(rounds)} judged answers were logged with propensity 1: the policy that served them was deterministic, so that what "
            "another choice would have earned was never tried; serve some answers with exploration first"
        )
    if (judges := _judges(chance)) < JUDGES:
        raise NotNow(f"{judges} people judged answers that were left to chance, {JUDGES} are needed: few people are no sample of others")
    _check_support(chance)
    weight_N = chance.weight_N
    if (effective := effective_sample_size(weight_N)) < ENOUGH:
        raise NotNow(
            f"the target policy would have chosen otherwise in most of the {len(chance)} rounds: what is left tells as much as "
            f"{effective:.0f} rounds, {ENOUGH} are needed"
        )
    mean = float(weight_N.mean())
    if abs(mean - 1.0) > _OFF * clustered_error(weight_N - mean, chance.judge_N):
        raise NotNow(f"the mean weight is {mean:.2f} and should be 1: the logged propensities are not those of the policy that chose")


def _check_support(chance: Rounds) -> None:
    """Raises NotNow where the target would choose what was never chosen."""
    seen_K = np.bincount(chance.action_N, minlength=chance.target_NK.shape[1]) > 0
    missing = float(chance.target_NK[:, ~seen_K].sum()) / len(chance)
    if missing > _UNSUPPORTED:
        raise NotNow(
            f"in {100 * missing:.0f} % of the rounds the target policy would choose what the logging policy never chose: "
            "nothing is known of its reward"
        )
