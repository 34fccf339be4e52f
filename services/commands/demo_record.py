"""What happened in a demo, and the figures made of it. Knows answers and thumbs; knows no service, no terminal and no model."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import mean, pstdev

_Z95 = 1.96  # normal quantile of a 95 % interval


@dataclass(frozen=True, slots=True)
class Shown:
    """One text of the stream, as the loop and as the frozen version 1 answered it."""

    right: bool
    frozen_right: bool


@dataclass(slots=True)
class Thumb:
    """One acknowledged thumb. `version` is the first that includes it, 0 as long as none does."""

    prediction_id: str
    feedback_id: str
    acknowledged_at: float  # seconds, monotonic
    version: int = 0
    ended: bool = False  # trained or held out or set aside: its state changes no more


@dataclass(slots=True)
class Record:
    """Grows while the demo runs."""

    shown: list[Shown] = field(default_factory=list)
    given: int = 0
    thumbs: list[Thumb] = field(default_factory=list)
    _flips: list[tuple[int, float]] = field(default_factory=list)  # (version, time of the first answer it computed), both rising

    def answered(self, version: int, at: float) -> None:
        """An answer computed by `version` came at `at` (seconds, monotonic)."""
        if not self._flips or version > self._flips[-1][0]:
            self._flips.append((version, at))

    @property
    def version(self) -> int:
        """The newest version that answered."""
        return self._flips[-1][0] if self._flips else 0

    @property
    def waiting(self) -> list[Thumb]:
        """Thumbs whose fate is not known yet, oldest first."""
        return [thumb for thumb in self.thumbs if not thumb.ended]

    @property
    def trained(self) -> int:
        """Thumbs that a version includes."""
        return sum(thumb.version > 0 for thumb in self.thumbs)

    def freshness(self) -> list[float]:
        """Seconds from each trained thumb's acknowledgement to the first answer computed with a version that includes it."""
        found: list[float] = []
        for thumb in self.thumbs:
            flip = bisect_left(self._flips, (thumb.version, 0.0))
            if thumb.version and flip < len(self._flips):
                found.append(max(0.0, self._flips[flip][1] - thumb.acknowledged_at))
        return found

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


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else None


def _rolling(right: Sequence[bool], window: int) -> list[float]:
    total, found = 0, []
    for at, value in enumerate(right):
        total += value - (right[at - window] if at >= window else 0)
        found.append(total / min(at + 1, window))
    return found
