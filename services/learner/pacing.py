"""How fast to learn: a factor on the learning rate, lowered on a plateau, whole again after a drift. Pure: knows figures, not their origin.

Two things are watched. Full evaluations: where held-out accuracy over the newest 2,000 feedbacks is hardly above that over as many before,
and a thousand feedbacks later still, the factor is halved; where it is two standard errors below, the factor is 1 again. Judged answers,
one by one: where they turn wrong more often than they were, the world has changed, and the factor is 1 again (Page-Hinkley). Learning too
fast on a plateau costs little, learning too slowly after a drift much: so one is believed late and the other soon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

FLOOR = 1 / 8
"""The least factor: learning never stops, or it could not show that it helps."""
HALF = 2_000
"""Feedbacks of the stream in either half of what is compared: a curve that is still in its first climb shows it over these."""
_STRIDE = 1_000
"""Feedbacks from one decision to the next: the same luck is not asked again and again."""
_WORTH = 0.005
"""Gain below which a half is no better than the one before; less than the luck of some hundred rows, hence asked twice."""
_SEVERAL = 3
"""Evaluations in either half at the least."""
_FEWEST_ROWS = 32
"""Rows of a split in an evaluation below which it says nothing."""
_FALLEN = 2.0
"""Standard errors."""


class PageHinkley:
    """Says when a value in [0, 1] has risen above its mean (Page 1954, Biometrika 41:100; as a drift detector: Gama, Sebastiao, Rodrigues
    2013, Machine Learning 90:317).

    m_t = sum of (x_t - mean_t - delta); an alarm where m_t exceeds its least value by lambda. The mean forgets, over MEMORY values, so that
    it follows a model that learns.
    """

    DELTA = 0.03
    """A rise below it is none."""
    LAMBDA = 25.0
    """One false alarm in some 100,000 judgements (docs/decisions/0016-the-pace-of-learning.md); with 15 there are ten."""
    MEMORY = 2_000
    FEWEST = 100
    """Values from which the first mean is taken."""

    def __init__(self) -> None:
        self._seen = 0
        self._mean = self._above = 0.0

    def add(self, value: float) -> bool:
        """Take the next value. True: an alarm, and the detector begins anew."""
        self._seen += 1
        self._mean += (value - self._mean) / min(self._seen, self.MEMORY)
        if self._seen < self.FEWEST:
            return False
        self._above = max(0.0, self._above + value - self._mean - self.DELTA)
        if self._above <= self.LAMBDA:
            return False
        self._seen, self._mean, self._above = 0, 0.0, 0.0
        return True


@dataclass(frozen=True, slots=True)
class Scores:
    """What a full evaluation found."""

    at: int  # feedbacks of the stream until then
    by_split: Mapping[str, tuple[float, int]]  # accuracy, rows


@dataclass(frozen=True, slots=True)
class Change:
    """Another factor from now on, and why."""

    rate: float
    why: str


class Pacing:
    """Keeps the factor."""

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate
        self._errors = PageHinkley()
        self._scores: list[Scores] = []
        self._decide_at = self._lower_at = 0  # feedbacks of the stream
        self._stalled = False  # at the last decision

    def judged(self, right: float) -> Change | None:
        """An answer was judged, right or wrong, in [0, 1]."""
        if not self._errors.add(1.0 - right):
            return None
        self.begin_anew()
        return self._whole("answers are judged wrong more often than they were")

    def evaluated(self, scores: Scores) -> Change | None:
        """A version was evaluated."""
        if not self._scores:
            self._decide_at = scores.at + 2 * HALF
        self._scores.append(scores)
        if scores.at < self._decide_at:
            return None
        self._decide_at = scores.at + _STRIDE
        self._scores = [one for one in self._scores if one.at > scores.at - 2 * HALF]
        older = [one for one in self._scores if one.at <= scores.at - HALF]
        found = gain(older, self._scores[len(older) :])
        return None if found is None else self._decide(scores.at, *found)

    def begin_anew(self) -> None:
        """What was evaluated before is of other weights, or of another world."""
        self._scores, self._stalled = [], False

    def _decide(self, at: int, gained: float, error: float) -> Change | None:
        words = f"{100 * gained:+.1f} points on held-out rows over {HALF} feedbacks, standard error {100 * error:.1f}"
        if gained < -_FALLEN * error:
            self.begin_anew()
            return self._whole(f"validation falls: {words}")
        stalled, self._stalled = self._stalled, -error < gained < _WORTH  # what is on its way down is not slowed
        if not (stalled and self._stalled) or at < self._lower_at or self.rate <= FLOOR:
            return None
        self.rate /= 2
        self._lower_at = at + 2 * HALF
        return Change(self.rate, f"validation has stopped improving: {words}")

    def _whole(self, why: str) -> Change | None:
        if self.rate == 1.0:
            return None
        self.rate = 1.0
        return Change(1.0, why)


def gain(older: list[Scores], newer: list[Scores]) -> tuple[float, float] | None:
    """How much more accurate the newer ones are, mean of the splits, and its standard error; None where they cannot tell.

    The error is that of one evaluation against one other on rows of their own: evaluations share rows and differ by versions, so that
    however many of them there are, their mean knows little more than one.
    """
    gains, variance = list[float](), 0.0
    for split in {split for one in newer for split in one.by_split}:
        before, after = (
            [one.by_split[split] for one in half if one.by_split.get(split, (0.0, 0))[1] >= _FEWEST_ROWS] for half in (older, newer)
        )
        if min(len(before), len(after)) < _SEVERAL:
            continue
        gains.append(fmean(accuracy for accuracy, _ in after) - fmean(accuracy for accuracy, _ in before))
        variance += _variance(before) + _variance(after)
    return (fmean(gains), math.sqrt(variance) / len(gains)) if gains else None


def _variance(scores: list[tuple[float, int]]) -> float:
    accuracy = fmean(one for one, _ in scores)
    return accuracy * (1.0 - accuracy) / fmean(rows for _, rows in scores)
