"""Prints how often the guard takes back a version that is as good as the others, and how soon one that is worse. Knows verdicts, no model.

    .venv/bin/python -m benchmarks.guard_simulation

Rows are hard or easy, and what a version gets right beyond that wanders from one evaluated version to the next, so that successive
evaluations see nearly the same answers. In every evaluation the newest version meets the blessed one (with the
answers of those blessed before it) and the anchor, the blessed one of
AN_HOUR evaluations ago, as services/learner/examiner.py does it: the catastrophic rule after every slice, the others at the end. The
splits take turns in a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np
from numpy.typing import NDArray

from services.learner.examiner import SLICE
from services.learner.verdict import EARLIER, Comparison, Count, Decision, Verdicts, combine

SHORT, LONG = 0.02, 0.06
"""Share of the rows that two versions answer differently: one evaluation apart, and far apart; 4 % between, in `guard_drift.py`'s run."""
AN_HOUR = 60
"""Evaluations in an hour: one a minute is what a learner manages while feedback never stops."""
_RENEWED = 0.02
"""Share of the held-out feedback that is new in every evaluation."""
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to evaluate on."""

    rows: int
    accuracy: float
    renewed: float = 0.0  # share of its rows that is replaced with every evaluation


@dataclass(slots=True)
class _Version:
    """What a version makes of the rows, by split."""

    number: int
    wander: list[_Floats]  # what it does better or worse on each row than versions do on average
    margins: list[_Floats]  # right above 0, wrong below


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one evaluation led to."""

    decision: Decision
    share: float  # of its rows that were answered by then


class World:
    """Versions of one quality, until `spoil`; each evaluation is of a version one evaluation further on."""

    def __init__(self, splits: Sequence[Split], seed: int) -> None:
        self._splits = splits
        self._rng = np.random.default_rng(seed)
        self._scale, self._keeps = _wander([split.accuracy for split in splits])
        self._ease = [self._fresh_ease(split, split.rows) for split in splits]
        self._wander = [self._scale * self._rng.standard_normal(split.rows) for split in splits]
        self._loss = 0.0
        self._verdicts = Verdicts()
        self._number = 1
        self._blessed = self._anchor = self._next_anchor = self._version()
        self._earlier: list[list[_Floats]] = []  # margins of the versions that were blessed before

    def spoil(self, loss: float) -> None:
        """From now on new versions are that much less accurate, on every split."""
        self._loss = loss

    def evaluate(self) -> Outcome:
        """The next version against the blessed one and the anchor."""
        self._number += 1
        for split in range(len(self._splits)):
            self._renew(split)
            noise = self._scale * self._rng.standard_normal(self._splits[split].rows)
            self._wander[split] = self._keeps * self._wander[split] + np.sqrt(1 - self._keeps**2) * noise
        if self._number % AN_HOUR == 0:
            self._anchor, self._next_anchor = self._next_anchor, self._blessed
        newest = self._version()
        others = {other.number: other for other in (self._blessed, self._anchor)}
        against: dict[int, Comparison] = {}
        for share, against in self._slices(newest, others):
            if verdict := self._verdicts.at_once(against):
                return self._go_back(others[verdict.to], share)
        verdict = self._verdicts.after_all(sum(split.rows for split in self._splits), against)
        if verdict.decision is Decision.ROLLBACK:
            return self._go_back(others[verdict.to], 1.0)
        if verdict.decision is Decision.BLESS:
            self._earlier = [*self._earlier, self._blessed.margins][-EARLIER:]
            self._blessed = newest
        return Outcome(verdict.decision, 1.0)

    def _go_back(self, to: _Version, share: float) -> Outcome:
        """What comes next starts from the version that is served again."""
        self._verdicts.begin_anew()
        self._blessed = self._anchor = self._next_anchor = to
        self._earlier = []
        self._wander = [wander.copy() for wander in to.wander]
        return Outcome(Decision.ROLLBACK, share)

    def _version(self) -> _Version:
        shift = [_shift(split.accuracy, self._loss, self._scale) for split in self._splits]
        margins = [self._ease[at] + self._wander[at] - shift[at] for at in range(len(self._splits))]
        return _Version(self._number, [wander.copy() for wander in self._wander], margins)

    def _renew(self, split: int) -> None:
        """New rows come; the older versions answer them as well as they answer others, and much as the newest does."""
        count = round(self._splits[split].renewed * self._splits[split].rows)
        places = self._rng.permutation(self._splits[split].rows)[:count]
        self._ease[split][places] = self._fresh_ease(self._splits[split], count)
        for version in dict.fromkeys((self._next_anchor.number, self._anchor.number, self._blessed.number)):
            owner = next(one for one in (self._blessed, self._anchor, self._next_anchor) if one.number == version)
            apart = self._keeps ** (self._number - version)
            noise = self._scale * self._rng.standard_normal(count)
            owner.wander[split][places] = apart * self._wander[split][places] + np.sqrt(1 - apart**2) * noise
            owner.margins[split][places] = self._ease[split][places] + owner.wander[split][places]
        for margins in self._earlier:  # which never saw these rows
            margins[split][places] = self._blessed.margins[split][places]

    def _fresh_ease(self, split: Split, count: int) -> _Floats:
        """Rows that a version gets right with probability `split.accuracy`."""
        return NormalDist().inv_cdf(split.accuracy) * np.sqrt(1 + self._scale**2) + self._rng.standard_normal(count)

    def _slices(self, newest: _Version, others: dict[int, _Version]) -> Iterator[tuple[float, dict[int, Comparison]]]:
        """What is known after every slice: the share of the rows answered, and the comparisons so far."""
        losses = {number: self._losses(one, newest) for number, one in others.items()}
        lost = {number: [np.cumsum(loss) for loss in found] for number, found in losses.items()}
        squares = {number: [np.cumsum(loss**2) for loss in found] for number, found in losses.items()}
        sizes = [split.rows for split in self._splits]
        total = sum(sizes)
        for end in range(SLICE, total + SLICE, SLICE):
            seen = _turns(sizes, min(end, total))
            yield (
                min(end, total) / total,
                {
                    number: combine(
                        [Count(n, float(lost[number][at][n - 1]), float(squares[number][at][n - 1])) for at, n in enumerate(seen) if n]
                    )
                    for number in others
                },
            )

    def _losses(self, other: _Version, newest: _Version) -> list[_Floats]:
        """By split: what the newest version loses on each row against another one, in [-1, 1]."""
        known = [other.margins, *(self._earlier if other is self._blessed else [])]
        return [np.mean([margins[at] > 0 for margins in known], axis=0) - (newest.margins[at] > 0) for at in range(len(self._splits))]


def _turns(sizes: Sequence[int], rows: int) -> list[int]:
    """How many rows of each split are among the first `rows` when the splits take turns."""
    seen = [0] * len(sizes)
    while (left := rows - sum(seen)) > 0:
        open_ = [at for at, size in enumerate(sizes) if seen[at] < size]
        step = max(1, min(left // len(open_), *(sizes[at] - seen[at] for at in open_)))
        for at in open_[: left if left < len(open_) else None]:
            seen[at] += step
    return seen


def _wander(accuracies: Sequence[float]) -> tuple[float, float]:
    """Scale of what wanders against what stays, and its correlation from one evaluation to the next, that give SHORT and LONG."""
    accuracy = sum(accuracies) / len(accuracies)
    far = next(scale for scale in np.arange(0.02, 2.0, 0.01) if _differing(accuracy, scale, 0.0) >= LONG)
    near = next(keeps for keeps in np.arange(0.999, 0.0, -0.001) if _differing(accuracy, far, keeps) >= SHORT)
    return float(far), float(near)


def _differing(accuracy: float, scale: float, keeps: float) -> float:
    """Share of the rows that two versions answer differently: a two-dimensional normal integral, summed over the rows' ease."""
    centre = NormalDist().inv_cdf(accuracy) * np.sqrt(1 + scale**2)
    rng = np.random.default_rng(0)
    ease, one, noise = (rng.standard_normal(20_000) for _ in range(3))
    other = keeps * one + np.sqrt(1 - keeps**2) * noise
    return float(np.mean((centre + ease + scale * one > 0) != (centre + ease + scale * other > 0)))


def _shift(accuracy: float, loss: float, scale: float) -> float:
    spread = float(np.sqrt(1 + scale**2))
    return spread * (NormalDist().inv_cdf(accuracy) - NormalDist().inv_cdf(accuracy - loss))


def false_rollbacks(splits: Sequence[Split], evaluations: int, seed: int) -> int:
    """Rollbacks in that many evaluations of versions that are equally good."""
    world = World(splits, seed)
    return sum(world.evaluate().decision is Decision.ROLLBACK for _ in range(evaluations))


def until_caught(splits: Sequence[Split], loss: float, seed: int, *, limit: int = 100) -> float:
    """Evaluations from the first worse version to the rollback, the last one counted as far as it got; infinite beyond `limit`."""
    world = World(splits, seed)
    for _ in range(AN_HOUR + 5):
        world.evaluate()
    world.spoil(loss)
    for done in range(limit):
        outcome = world.evaluate()
        if outcome.decision is Decision.ROLLBACK:
            return done + outcome.share
    return float("inf")


TASK = Split(500, 0.90)
WITHOUT_FEEDBACK = (TASK,)
WITH_SOME = (TASK, Split(100, 0.80, renewed=_RENEWED))
WITH_FEEDBACK = (TASK, Split(500, 0.80, renewed=_RENEWED))


def main() -> None:
    """Print the table."""
    print("500 validation rows that 90 % are right on, beside so many held-out feedbacks that 80 % are right on; losses are on both.")
    print(f"{'held-out feedbacks':30}{'none':>12}{'100':>12}{'500':>12}")
    worlds = (WITHOUT_FEEDBACK, WITH_SOME, WITH_FEEDBACK)
    rates = [sum(false_rollbacks(splits, 1_000, seed) for seed in range(10)) / 10 for splits in worlds]
    _say("false rollbacks in 1,000", [f"{rate:.1f}" for rate in rates], "of 10,000 evaluations of equal versions")
    for loss in (0.03, 0.10, 0.40):
        found = [sorted(until_caught(splits, loss, seed) for seed in range(40)) for splits in worlds]
        cells = [f"{median(times):.1f} ({times[35]:.1f})" for times in found]
        _say(f"{100 * loss:.0f} points lost: evaluations", cells, "until caught: median (90 %), of 40 runs")


def _say(what: str, cells: Sequence[str], how: str) -> None:
    print(f"{what:30}{''.join(f'{cell:>12}' for cell in cells)}   {how}", flush=True)


if __name__ == "__main__":
    main()
