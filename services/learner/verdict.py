"""Whether one version answers worse than another, row by row, and what follows. Pure: knows answers, not where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

Answers = Mapping[str, bool]
"""By the row's name, `split:...`: was it answered right?"""

ENOUGH = 32
"""Rows that both versions answered, below which nothing is decided."""
_FULL_WEIGHT = 200
"""Rows from which on a split weighs as much as any other; with fewer it weighs in proportion, so that a few rows tip no scale."""
_CLEAR, _POINTS = 3.0, 0.01
"""Standard errors and accuracy lost beyond which a version fails an evaluation; the accuracy alone keeps it from being blessed."""
EARLIER = 2
"""Blessed versions before the last whose answers count with its own: its luck on rows that never change is not held against the next."""
_GLARING, _MANY_POINTS = 4.0, 0.10
"""Standard errors and accuracy lost beyond which a version is taken back before its evaluation is done."""


def split_of(row: str) -> str:
    """The split of a row by its name."""
    return row.rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One version against another, on the rows that both answered."""

    rows: int
    drop: float  # how much less accurate it is than the other, in [-1, 1]; the mean over the splits
    error: float  # standard error of `drop` where the two are equally good

    def is_beyond(self, errors: float, drop: float) -> bool:
        """Both that many standard errors and that much accuracy are lost."""
        return self.rows >= ENOUGH and self.drop > errors * self.error and self.drop > drop

    @property
    def words(self) -> str:
        """For people."""
        errors = abs(self.drop) / self.error if self.error else 0.0
        than = "fewer" if self.drop > 0 else "more"
        return f"{100 * abs(self.drop):.1f} points {than} right answers, {errors:.1f} standard errors, on {self.rows} rows"


@dataclass(frozen=True, slots=True)
class Count:
    """How two versions answered the rows of one split; a row's loss is 1 where the other alone is right, -1 where this one alone is."""

    rows: int
    lost: float  # sum of the losses
    squares: float  # sum of their squares


def compare(ours: Answers, theirs: Answers, earlier: Sequence[Answers] = ()) -> Comparison:
    """Paired by row. With answers that stand for the same as `theirs`, the other's are the mean of what is known for the row."""
    counts: dict[str, list[float]] = {}
    for row in ours.keys() & theirs.keys():
        known = [theirs[row], *(answers[row] for answers in earlier if row in answers)]
        loss = sum(known) / len(known) - ours[row]
        count = counts.setdefault(split_of(row), [0, 0, 0])
        count[0] += 1
        count[1] += loss
        count[2] += loss * loss
    return combine([Count(int(rows), lost, squares) for rows, lost, squares in counts.values()])


def combine(splits: Sequence[Count]) -> Comparison:
    """The error is that of McNemar's test (1947): only rows on which the two differ, in either direction, carry any."""
    total = sum(_weight(split) for split in splits)
    drop = variance = 0.0
    for split in splits:
        share = _weight(split) / total / split.rows
        drop += share * split.lost
        variance += share * share * split.squares
    return Comparison(sum(split.rows for split in splits), drop, math.sqrt(variance))


def _weight(split: Count) -> int:
    return min(split.rows, _FULL_WEIGHT)


class Decision(Enum):
    """What a full evaluation leads to."""

    BLESS = "bless"  # less than a point below every contestant
    WATCH = "watch"  # a little worse, or clearly worse for the first time
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision; for a rollback also to which version, and why."""

    decision: Decision
    to: int = 0
    why: str = ""


class Verdicts:
    """Decides on one evaluation after the other; remembers whether the last one failed."""

    def __init__(self) -> None:
        self._failed = False

    def at_once(self, against: Mapping[int, Comparison]) -> Verdict | None:
        """A rollback where the difference glares, whatever part of the rows was answered. `against`: by the other version's number."""
        return self._rollback({version: one for version, one in against.items() if one.is_beyond(_GLARING, _MANY_POINTS)})

    def after_all(self, rows: int, against: Mapping[int, Comparison]) -> Verdict:
        """Decide on a version that answered all of its `rows`."""
        clear = {version: one for version, one in against.items() if one.is_beyond(_CLEAR, _POINTS)}
        if self._failed and (rollback := self._rollback(clear)):
            return rollback
        self._failed = bool(clear)
        blesses = rows >= ENOUGH and all(one.drop < _POINTS for one in against.values())
        return Verdict(Decision.BLESS if blesses else Decision.WATCH)

    def begin_anew(self) -> None:
        """Other weights are served now."""
        self._failed = False

    @staticmethod
    def _rollback(beaten_by: Mapping[int, Comparison]) -> Verdict | None:
        """To the version that beats it by most: after a slow slide that is the older one."""
        if not beaten_by:
            return None
        to = max(beaten_by, key=lambda version: beaten_by[version].drop)
        return Verdict(Decision.ROLLBACK, to, f"{beaten_by[to].words} against version {to}")
