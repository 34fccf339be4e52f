"""A few accounts that suddenly give much of the feedback: who they are. Pure but for two queries; decides nothing about them.

With few judges, or little feedback, there is no usual to compare with, and nobody stands out.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.influence import BY_PEOPLE

RECENT, USUAL = 200, 1_000
"""Feedbacks that show a burst, and those before them, learnt from, that show what is usual."""
_ENOUGH_JUDGES, _ENOUGH_FEEDBACK = 30, 400
"""Below this nothing is usual: in a small team it is always few who say much."""
_LEAST = 0.04
"""Of the recent feedback, what one account gives at the least: 25 accounts or more are a crowd, not few."""
_TIMES = 3.0
"""As much of it as usual, at the least."""
_RISE = 0.15
"""Of the recent feedback, what they give together beyond their usual, at the least, and beyond what such rises come to at other times."""

_WAITING = f"SELECT id FROM feedback WHERE state = {State.FEEDBACK_STATE_JOINED} ORDER BY id LIMIT ?"  # noqa: S608  no input in it
_SAID = f"""
SELECT id, judge FROM feedback INDEXED BY feedback_by_people
WHERE {BY_PEOPLE} AND id <= ? AND signal != 'retraction' ORDER BY id DESC LIMIT ?
"""  # noqa: S608
_LEARNT = f"""
SELECT judge FROM feedback INDEXED BY feedback_by_people WHERE {BY_PEOPLE} AND id < ? AND uses > 0 ORDER BY id DESC LIMIT ?
"""  # noqa: S608
_THEIRS = f"SELECT judge, reason FROM feedback WHERE id = ? AND {BY_PEOPLE}"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Burst:
    """What is to be set aside."""

    feedback: tuple[int, ...]
    why: str


class Bursts:
    """Looks at what the next step would learn from."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def waiting(self, limit: int) -> Burst | None:
        """Of the next `limit` feedbacks those of accounts that burst; what an operator released is left alone."""
        ids = [one for (one,) in self._db.execute(_WAITING, (limit,))]
        if not ids:
            return None
        said = self._db.execute(_SAID, (ids[-1], RECENT)).fetchall()
        learnt = self._db.execute(_LEARNT, (said[-1][0] if said else 0, USUAL))
        judges = bursting([judge for _, judge in said], [judge for (judge,) in learnt])
        found = tuple(one for one in ids if judges and self._is_of(one, judges))
        return Burst(found, f"much of the feedback suddenly comes from few accounts: {len(judges)}") if found else None

    def _is_of(self, feedback: int, judges: frozenset[bytes]) -> bool:
        found = self._db.execute(_THEIRS, (feedback,)).fetchone()
        return found is not None and found[0] in judges and not found[1]


def bursting(recent: Sequence[bytes], usual: Sequence[bytes]) -> frozenset[bytes]:
    """Judges who give much more of `recent` than of `usual`, where that comes to much more than such rises usually do.

    People come, judge for a while and go, so that in many services somebody has always just risen. Each part of `usual` beside the rest
    of it shows how much that is.
    """
    if len(recent) < RECENT or len(usual) < _ENOUGH_FEEDBACK or len(set(usual)) < _ENOUGH_JUDGES:
        return frozenset()
    parts = [usual[start : start + RECENT] for start in range(0, len(usual) - RECENT + 1, RECENT)]
    rests = [[*usual[: number * RECENT], *usual[(number + 1) * RECENT :]] for number in range(len(parts))]
    before = max(_rise(part, rest)[0] for part, rest in zip(parts, rests, strict=True))
    rise, judges = _rise(recent, usual)
    return judges if rise >= before + _RISE else frozenset()


def _rise(now: Sequence[bytes], before: Sequence[bytes]) -> tuple[float, frozenset[bytes]]:
    """Who gives several times his share of `before`, and the share of `now` that they give beyond it together."""
    counts, usual, scale = Counter(now), Counter(before), len(now) / len(before)
    risen = [judge for judge, count in counts.items() if count >= max(_LEAST * len(now), _TIMES * scale * usual[judge])]
    return sum(counts[judge] - scale * usual[judge] for judge in risen) / len(now), frozenset(risen)
