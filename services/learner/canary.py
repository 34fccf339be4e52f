"""What the users of two channels say about their versions, and what follows. Pure: knows counts, not where they come from.

A judge counts once, with the mean of what he said: his channel never changes, so that his habits would look like the version's. Two shares
are compared by the interval of their difference (services/learner/intervals.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from liveloop.weights.channels import Channel
from services.learner.intervals import Z_95, Share, difference

ENOUGH = 100
"""Judges of the current version before it can be promoted."""
MOST = 1000
"""Newest judgements of the current version that count at the most."""
_RECENT = 100
"""Newest ones that are also looked at alone, so that a sudden fall is not hidden by what was good before it."""
_FEWEST = 10
"""Judges of each version before either is called worse."""
_MARGIN = 0.03
"""More downs, as a share of the judges, that are no reason against a promotion."""
_WORSE = 0.05
"""More downs that are a reason to roll back, where they are certain."""
_MORE_FAILURES = 0.01
"""The same of inputs that could not be computed."""
_SLOWER = 1.5
"""Times the other's seconds that are slower: a bad neighbour on the machine slows both."""
_Z_CERTAIN = 4.417
"""99.999 %: each of many looks is another chance to err."""


class Decision(Enum):
    """What follows for the current version."""

    PROMOTE = "promote"
    WATCH = "watch"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Finding:
    """A decision and one sentence why."""

    decision: Decision
    why: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one judge said of one answer."""

    channel: Channel
    judge: bytes
    down: float  # in [0, 1]: 0 is right, 1 is wrong, a rating lies between


@dataclass(frozen=True, slots=True)
class Work:
    """What all pods computed for one channel."""

    answered: int = 0  # inputs
    failed: int = 0  # inputs that could not be computed
    batches: int = 0
    seconds: float = 0.0  # of computing those answered


Pair = tuple[Share, Share]
"""Of the current and of the blessed version."""


def decide(judgements: Sequence[Judgement], work: Mapping[Channel, Work]) -> Finding:
    """What follows from the judgements, newest first, and the work of the channels."""
    current, blessed = work.get(Channel.CURRENT, Work()), work.get(Channel.BLESSED, Work())
    failures = _failures(current), _failures(blessed)
    recent, downs = _downs(_newest(judgements, _RECENT)), _downs(_newest(judgements, MOST))
    if reason := _worse("could not be computed", failures, _MORE_FAILURES) or _more_downs(recent) or _more_downs(downs):
        return Finding(Decision.ROLLBACK, reason)
    if downs[0].of < ENOUGH:
        return Finding(Decision.WATCH, f"{downs[0].of} judges of the current version, {ENOUGH} are needed")
    low, high = difference(*downs, Z_95)
    said = f"{_percent(downs)} of the judges say wrong, a difference of {100 * low:.1f} to {100 * high:.1f} points (95 %)"
    if high > _MARGIN:
        return Finding(Decision.WATCH, said)
    if difference(*failures, Z_95)[0] > 0.0 or _is_slower(current, blessed):
        return Finding(Decision.WATCH, "the current version fails more often or is slower")
    return Finding(Decision.PROMOTE, said)


def _more_downs(downs: Pair) -> str:
    return _worse("of the judges say wrong", downs, _WORSE) if min(share.of for share in downs) >= _FEWEST else ""


def _worse(what: str, shares: Pair, at_least: float) -> str:
    """A sentence, where the current version's share is greater beyond doubt and by so much."""
    low, high = difference(*shares, _Z_CERTAIN)
    if low <= 0.0 or shares[0].value - shares[1].value < at_least:
        return ""
    return f"{_percent(shares)} {what}, a difference of {100 * low:.1f} to {100 * high:.1f} points (99.999 %)"


def _percent(shares: Pair) -> str:
    one, other = shares
    return f"current {100 * one.value:.1f} % of {one.of}, blessed {100 * other.value:.1f} % of {other.of}"


def _newest(judgements: Sequence[Judgement], count: int) -> Sequence[Judgement]:
    """The newest ones, back to the `count`th of the current version, so that both versions are judged in the same time."""
    places = (place for place, judgement in enumerate(judgements) if judgement.channel is Channel.CURRENT)
    last = next(islice(places, count - 1, None), len(judgements) - 1)
    return judgements[: last + 1]


def _downs(judgements: Sequence[Judgement]) -> Pair:
    """The share of downs among the judges of each version."""
    said: dict[Channel, defaultdict[bytes, list[float]]] = {channel: defaultdict(list) for channel in Channel}
    for judgement in judgements:
        said[judgement.channel][judgement.judge].append(judgement.down)
    current, blessed = (Share(sum(_means(said[channel])), len(said[channel])) for channel in (Channel.CURRENT, Channel.BLESSED))
    return current, blessed


def _means(said: Mapping[bytes, Sequence[float]]) -> Iterator[float]:
    return (sum(downs) / len(downs) for downs in said.values())


def _failures(work: Work) -> Share:
    return Share(work.failed, work.answered + work.failed)


def _is_slower(one: Work, other: Work) -> bool:
    """By the batch and by the input: of two equal models the one with smaller batches takes longer for an input, never for a batch."""
    if not (one.answered and other.answered):
        return False
    by_input = one.seconds / one.answered > _SLOWER * other.seconds / other.answered
    return by_input and one.seconds / one.batches > _SLOWER * other.seconds / other.batches
