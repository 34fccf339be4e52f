"""What a judge's word weighs beside everybody else's: a cap on each judge's share, and trust. Knows one table; knows no model.

Capped are those who speak for themselves. An operator's own word is not: labelled rows, which take an API key with the scope `examples`
and could as well be task data; what an API key with the scope `feedback` vouches for as said by an expert, who has a bound of his own
(services/learner/experts.py), or by a program; and default rewards, whose weight is a setting.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, median

from liveloop.rows import EXAMPLE
from liveloop.v1.events_pb2 import SOURCE_CODE, SOURCE_EXPERT
from liveloop.v1.learner_pb2 import FeedbackState as State

WINDOW = 1_000
"""Feedbacks among which shares are counted."""
_FAIR_SHARES = 3.0
"""Of few judges each may weigh this many times what would be his, were all alike: of three or fewer nobody is capped."""
_PRIOR = 20.0
"""Feedbacks that the agreement of all judges weighs in that of each."""
_LEAST_TRUST = 0.1

BY_PEOPLE = f"judge != x'' AND source NOT IN ({SOURCE_EXPERT}, {SOURCE_CODE}) AND prediction_id < '{EXAMPLE}'"
"""Of the table of feedback: said by somebody who speaks for himself. The index `feedback_by_people` has the same words."""
_RECENT = f"""
SELECT judge, agreement FROM feedback INDEXED BY feedback_by_people
WHERE {BY_PEOPLE} AND id <= ? AND (uses > 0 OR state = {State.FEEDBACK_STATE_JOINED}) ORDER BY id DESC LIMIT {WINDOW}
"""  # noqa: S608  no input in it
_ITEM = f"SELECT iif({BY_PEOPLE}, judge, NULL), standing FROM feedback WHERE id = ?"  # noqa: S608
_NEWEST = 1 << 62
"""Above every id."""


class Influence:
    """The weights of a step's feedback, by who gave it."""

    def __init__(self, db: sqlite3.Connection, *, cap: float, trust: bool) -> None:
        """`cap` is the share of the recent feedback that a judge weighs at most, where there are many judges; 1: no cap."""
        self._db = db
        self._cap = cap
        self._trust = trust

    def weights(self, new: Sequence[int], replayed: Sequence[int]) -> tuple[float, ...]:
        """What is left of each one's weight, in (0, 1]; empty: all of it.

        Shares are those among the last feedbacks up to the newest of `new`. What is used again never weighs more than it did the first
        time: else a flood would come back whole in replays once its judge has fallen silent.
        """
        recent = self._db.execute(_RECENT, (max(new, default=_NEWEST),)).fetchall()
        capped = caps([judge for judge, _ in recent], self._cap)
        trusted = trusts((judge, agreement) for judge, agreement in recent if agreement is not None) if self._trust else {}
        items = [self._db.execute(_ITEM, (one,)).fetchone() for one in (*new, *replayed)]
        found = [min(before, capped.get(judge, 1.0) * trusted.get(judge, 1.0)) for judge, before in items]
        return () if all(one == 1.0 for one in found) else tuple(found)


def caps(judges: Sequence[bytes], cap: float) -> dict[bytes, float]:
    """The factor of each judge, (0, 1], that leaves him at most max(cap, 3 / number of judges) of these feedbacks: who gave each."""
    counts = Counter(judges)
    most = max(cap, _FAIR_SHARES / max(1, len(counts))) * len(judges)
    return {judge: min(1.0, most / count) for judge, count in counts.items()}


def trusts(said: Iterable[tuple[bytes, float]]) -> dict[bytes, float]:
    """The factor of each judge, [0.1, 1], from (judge, agreement) pairs: how far above chance he agrees, beside the median judge.

    Agreement is the probability that the model gave to what he says. A judge who tosses a coin agrees half of the time, whatever the model
    and the number of labels. Each one's mean is smoothed by that of all judges. Where the median judge agrees no more than by chance it is
    the model that is wrong, and all are trusted alike.
    """
    agreements: defaultdict[bytes, list[float]] = defaultdict(list)
    for judge, agreement in said:
        agreements[judge].append(agreement)
    if not agreements:
        return {}
    usual = fmean(fmean(one) for one in agreements.values())
    smoothed = {judge: (sum(one) + _PRIOR * usual) / (len(one) + _PRIOR) - 0.5 for judge, one in agreements.items()}
    middle = median(smoothed.values())
    if middle <= 0.0:
        return dict.fromkeys(smoothed, 1.0)
    return {judge: min(1.0, max(_LEAST_TRUST, one / middle)) for judge, one in smoothed.items()}
