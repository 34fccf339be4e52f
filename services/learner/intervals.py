"""How far a share, a mean or a difference can be trusted. Pure: knows numbers, not where they come from.

Judgements of one person are not independent: where it is known who said what, people are what is sampled, and the variance is taken over
their sums (the delta method for a ratio of sums: Deng, Knoblich and Lu 2018, arXiv 1803.06336).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z_95 = 1.960
"""Standard errors on either side of a 95 % interval."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `of`; neither need be whole."""

    count: float
    of: float

    @property
    def value(self) -> float:
        """In [0, 1]; 0 of nothing."""
        return self.count / self.of if self.of else 0.0

    def interval(self, z: float) -> tuple[float, float]:
        """The score interval of Wilson (1927, JASA 22:209): [0, 1] of nothing."""
        if not self.of:
            return 0.0, 1.0
        centre = (self.count + z * z / 2) / (self.of + z * z)
        half = z / (self.of + z * z) * math.sqrt(self.of * self.value * (1 - self.value) + z * z / 4)
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def points(self) -> str:
        """For people, in points of a hundred."""
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"


def difference(one: Share, other: Share, z: float) -> tuple[float, float]:
    """The interval of `one` - `other` from those of both (Newcombe 1998, Statistics in Medicine 17:873, method 10)."""
    (low, high), (other_low, other_high) = one.interval(z), other.interval(z)
    middle = one.value - other.value
    return middle - math.hypot(one.value - low, other_high - other.value), middle + math.hypot(high - one.value, other.value - other_low)


def share(right: Sequence[bool]) -> Estimate:
    """The share of independent right answers."""
    found = Share(sum(right), len(right))
    return Estimate(found.value, *found.interval(Z_95))


def paired(ours: Sequence[bool], theirs: Sequence[bool]) -> Estimate:
    """How many more of the same rows, as a share, are answered right by us than by them.

    With b rows that we alone have right, c that they alone have, of n: the interval is that of Agresti and Min (2005, Statistics in
    Medicine 24:729), (b - c) / n' +- z sqrt(b + c - (b - c)^2 / n') / n' with half a row added to each cell of the table, n' = n + 2.
    """
    rows = len(ours)
    gained = sum(us and not them for us, them in zip(ours, theirs, strict=True))
    lost = sum(them and not us for us, them in zip(ours, theirs, strict=True))
    net = gained - lost
    half = Z_95 * math.sqrt(gained + lost + 1 - net * net / (rows + 2)) / (rows + 2)
    middle = net / (rows + 2)
    return Estimate(net / rows, max(-1.0, middle - half), min(1.0, middle + half))


def paired_by_judge(ours: Sequence[bool], theirs: Sequence[bool], group_N: npt.NDArray[np.int64]) -> Estimate:
    """The same where rows of one group are not independent: the wider of that interval and the one from the groups' sums."""
    alone = paired(ours, theirs)
    gained_N = np.subtract(ours, theirs, dtype=np.float64)
    half = Z_95 * clustered_error(gained_N - alone.value, group_N)
    return Estimate(alone.value, max(-1.0, min(alone.low, alone.value - half)), min(1.0, max(alone.high, alone.value + half)))


def groups(of: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """The number of each one's group, from 0; int64, [N]."""
    return np.unique(np.asarray(of, dtype=object), return_inverse=True)[1].astype(np.int64)


def clustered_error(influence_N: Floats, group_N: npt.NDArray[np.int64]) -> float:
    """Standard error of a mean of N terms from each one's influence on it (its expectation is 0), groups being what is independent.

    sqrt(G / (G - 1) sum_g (sum_{i in g} influence_i)^2) / N over G groups; infinite for one group.
    """
    sums_G = np.bincount(group_N, weights=influence_N)
    count = len(sums_G)
    return math.inf if count < 2 else math.sqrt(count / (count - 1) * float(sums_G @ sums_G)) / len(influence_N)


def clustered_share(value_N: Floats, group_N: npt.NDArray[np.int64]) -> Share:
    """The mean of values in [0, 1] as a share of as many independent ones as would leave the same error (Korn and Graubard 1998).

    Where all say the same there is no spread to measure: each group counts for one.
    """
    mean = float(value_N.mean())
    error = clustered_error(value_N - mean, group_N)
    independent = mean * (1 - mean) / error**2 if error else float(len(np.unique(group_N)))
    effective = min(float(len(value_N)), max(1.0, independent))
    return Share(mean * effective, effective)
