"""Which answers are worth a judgement, within a budget. Pure: knows probabilities and counts; knows no request and no clock.

A thumb says whether the label that was shown is right, so it teaches the most where the model gives that label a chance of one half: a
whole bit about the true class.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

_WINDOW = 500
"""Answers whose doubts a new one is compared with: minutes of a quiet service, a second of a busy one."""
_SLACK = 8.0
"""Questions ahead of its share or behind it at which a budget asks nothing, or twice its share."""
_GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, without their whole parts, are spread over [0, 1) as evenly as any sequence (Knuth, TAOCP 3, 6.4)."""


class Asking:
    """Asks about a share of the answers, those with the greatest doubts.

    What was asked never runs ahead of the share by more than 8 questions, nor behind it by more than 8 / share, whatever comes: a doubt
    is compared with the latest ones, and how high it must stand among them follows from how far the budget is spent.
    """

    def __init__(self, share: float) -> None:
        """`share` of the answers, in [0, 1]; 0 asks nothing, 1 about everything."""
        self._share = share
        self._place = 0.0  # of the next answer among those with the same doubt, in [0, 1)
        self._owed = 0.0  # questions due by now and not asked; below 0: asked ahead of their time
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def worth(self, probability: float) -> bool:
        """Whether to ask about the next answer, a label that the model gives this probability."""
        if self._share in (0.0, 1.0):
            return self._share == 1.0
        self._owed += self._share
        doubt = min(probability, 1.0 - probability)
        asked = self._rank(doubt) >= 1.0 - self._share * (1.0 + self._owed / _SLACK)
        self._owed -= asked
        self._remember(doubt)
        return asked

    def _rank(self, doubt: float) -> float:
        """The share of the latest doubts that are smaller; of those as great, each time another part is counted with them."""
        self._place = (self._place + _GOLDEN) % 1.0
        smaller, upto = bisect_left(self._sorted, doubt), bisect_right(self._sorted, doubt)
        return (smaller + self._place * (upto - smaller)) / len(self._sorted) if self._sorted else self._place

    def _remember(self, doubt: float) -> None:
        self._latest.append(doubt)
        insort(self._sorted, doubt)
        if len(self._latest) > _WINDOW:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
