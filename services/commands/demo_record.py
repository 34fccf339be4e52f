"""What happened in a demo, and the figures made of it. Knows answers and thumbs; knows no service, no terminal and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import mean, pstdev

from services.commands.freshness import Freshness

_Z95 = 1.96  # normal quantile of a 95 % interval


@dataclass(frozen=True, slots=True)
class Shown:
    """One text of the stream, as the loop and as the frozen version 1 answered it."""

    right: bool
    frozen_right: bool


@dataclass(slots=True)
class Record(Freshness):
    """Grows while the demo runs."""

    shown: list[Shown] = field(default_factory=list)
    given: int = 0

    def curves(self, window: int) -> tuple[list[float], list[float]]:
        """Share of right answers among the last `window`, after each answer: of the loop, and of version 1."""
        shown = list(self.shown)  # a view in another thread sees both curves at the same length
        return _rolling([one.right for one in shown], window), _rolling([one.frozen_right for one in shown], window)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share and its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of `values` with its normal 95 % interval; of paired differences it is the interval of the gain."""
    middle = mean(values)
    half = _Z95 * pstdev(values) / sqrt(len(values))
    return Estimate(middle, middle - half, middle + half)


def gain(before: Sequence[bool], after: Sequence[bool]) -> Estimate:
    """The gain in accuracy on the same texts, in the same order."""
    return estimate([float(late) - float(early) for early, late in zip(before, after, strict=True)])


def _rolling(right: Sequence[bool], window: int) -> list[float]:
    total, found = 0, []
    for at, value in enumerate(right):
        total += value - (right[at - window] if at >= window else 0)
        found.append(total / min(at + 1, window))
    return found
