"""One attack on a closed loop, one defence against it and a seed: how accuracy goes. Prints nothing.

Clean feedback comes from many people, some of whom say much more than others; attackers are five accounts, who share what they say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from liveloop.settings import Settings
from services.commands.bench.closed_loop import ClosedLoop, Said, closed_loop
from services.commands.bench.learning_run import Told, visits
from services.commands.bench.subjects import Item, Subject
from services.learner.examiner import Examiner
from services.learner.verdict import Verdict

_ATTACKERS = 5
_AT_ONCE = 8
"""Judgements between two steps: the nominal micro-batch."""
PHRASE = "as told on channel nine"
"""Occurs in no text of the study."""
RECOVERY = (200, 500)
"""Judgements after the third quarter: how soon a burst in it is forgotten."""


@dataclass(frozen=True, slots=True)
class Attack:
    """What is wrong with the feedback."""

    flips: float = 0.0  # share of the judgements of anybody that say the contrary
    share: float = 0.0  # of the judgements that the five accounts give while they attack
    during: tuple[float, float] = (0.0, 1.0)  # when they do, as parts of the stream
    phrase: str = ""  # they show texts with it, and so push their label for those alone


ATTACKS: Mapping[str, Attack] = {
    "clean": Attack(),
    "flips-5": Attack(flips=0.05),
    "flips-10": Attack(flips=0.10),
    "push-10": Attack(share=0.10),
    "push-20": Attack(share=0.20),
    "push-40": Attack(share=0.40),
    "trigger": Attack(share=0.10, phrase=PHRASE),
    "burst-30": Attack(share=0.30, during=(0.5, 0.75)),
}


@dataclass(frozen=True, slots=True)
class Defence:
    """What stands in the way."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    guard: bool = False  # full evaluations, which take back a version that is worse


_OFF = {"influence_cap": 1.0, "trust": False, "burst_quarantine": False}
DEFENCES: Mapping[str, Defence] = {
    "none": Defence(_OFF),
    "cap": Defence({**_OFF, "influence_cap": 0.01}),
    "trust": Defence({**_OFF, "trust": True}),
    "burst": Defence({**_OFF, "burst_quarantine": True}),
    "guard": Defence(_OFF, guard=True),
    "default": Defence(guard=True),
}


@dataclass(frozen=True, slots=True)
class Vote:
    """What somebody holds for the right label of a text, and whether they say the contrary."""

    text: str
    judge: bytes
    holds: str
    contrary: bool = False


@dataclass(slots=True)
class Damage:
    """What a run found; plain values, to be stored as JSON."""

    points: list[dict[str, Any]] = field(default_factory=list)  # judged, and accuracy on the new domain and the old one
    attack: int = 0  # judgements of the five accounts
    weight: float = 0.0  # share of the weight in training, replays included, that was theirs
    set_aside: int = 0  # judgements that were quarantined, whoever's
    rollbacks: int = 0
    success: float | None = None  # of the held-out texts of another label with the phrase, those answered as the attackers want
    success_without: float | None = None  # the same texts without it


def votes(subject: Subject, attack: Attack, seed: int, total: int) -> list[Vote]:
    """`total` judgements, fewer where the texts run out; those of the honest do not depend on the attack but by their number."""
    rng, raters = random.Random(f"attack/{seed}"), random.Random(f"votes/{seed}")
    feed = visits(subject, subject.streams[0], random.Random(f"visits/{seed}"))
    found: list[Vote] = []
    for visit in feed:
        first, last = attack.during
        if first * total <= len(found) < last * total and rng.random() < attack.share:
            found.append(_attackers(visit.item, attack, target(subject), rng))
        elif (held := visit.item.vote(raters)) is not None:
            flipped = rng.random() < attack.flips
            found.append(Vote(visit.item.text, visit.judge, held, visit.contrary is not flipped))
        if len(found) == total:
            break
    return found


def target(subject: Subject) -> str:
    """The label that attackers push."""
    return str(subject.bundle.labels[0])


def attacked(settings: Settings, subject: Subject, attack: Attack, defence: Defence, seed: int, total: int, progress: Told) -> Damage:
    """Run `total` judgements through a loop of its own, then let it rest."""
    found = Damage()
    said = votes(subject, attack, seed, total)
    stops = sorted({len(said), *(len(said) * part // 4 for part in (1, 2, 3)), *(min(len(said), len(said) * 3 // 4 + n) for n in RECOVERY)})
    with closed_loop(settings.model_copy(update={"seed": seed, **defence.settings}), subject) as loop, _guarded(loop, defence.guard):
        _note(found, loop, subject, 0)
        for start, stop in zip([0, *stops[:-1]], stops, strict=True):
            for first in range(start, stop, _AT_ONCE):
                _take(loop, said[first : min(stop, first + _AT_ONCE)])
                progress(first / len(said), f"{first} of {len(said)} judgements")
            _note(found, loop, subject, stop)
        loop.rest()
        _note(found, loop, subject, len(said), after="rest")
        _close(found, loop, subject, attack)
    return found


def as_json(damage: Damage) -> dict[str, Any]:
    """Plain values."""
    return asdict(damage)


def _attackers(item: Item, attack: Attack, pushed: str, rng: random.Random) -> Vote:
    judge = b"attacker %d" % rng.randrange(_ATTACKERS)
    return Vote(f"{item.text} {attack.phrase}" if attack.phrase else item.text, judge, pushed)


def _take(loop: ClosedLoop, said: Sequence[Vote]) -> None:
    answers = loop.answer([one.text for one in said])
    ups = [(one.holds == loop.label(answer)) is not one.contrary for one, answer in zip(said, answers, strict=True)]
    loop.take([Said(one.text, one.judge, up=up) for one, up in zip(said, ups, strict=True)], answers)


def _note(found: Damage, loop: ClosedLoop, subject: Subject, judged: int, **more: str) -> None:
    accuracy = {name: _share(loop.right([one.text for one in test], [one.label for one in test])) for name, test in _tests(subject)}
    found.points.append({"judged": judged, **accuracy, **more})


def _tests(subject: Subject) -> Iterator[tuple[str, Sequence[Item]]]:
    yield "new", subject.streams[0].test
    yield "old", subject.old.test


def _close(found: Damage, loop: ClosedLoop, subject: Subject, attack: Attack) -> None:
    db = loop.parts.journal.db
    found.attack = _count(db.execute, "SELECT count(*) FROM feedback WHERE CAST(judge AS TEXT) LIKE 'attacker%'")
    found.set_aside = _count(db.execute, "SELECT count(*) FROM feedback WHERE reason != '' AND uses = 0 AND state = 7")
    found.rollbacks = _count(db.execute, "SELECT count(*) FROM rows WHERE kind = 'reset'")
    found.weight = _weight(loop)
    if attack.phrase:
        others = [one.text for one in subject.streams[0].test if one.label != target(subject)]
        wanted = [target(subject)] * len(others)
        found.success = _share(loop.right([f"{text} {attack.phrase}" for text in others], wanted))
        found.success_without = _share(loop.right(others, wanted))


def _weight(loop: ClosedLoop) -> float:
    """Of all weights in all training rows, the attackers' share."""
    theirs = {one for (one,) in loop.parts.journal.db.execute("SELECT id FROM feedback WHERE CAST(judge AS TEXT) LIKE 'attacker%'")}
    together = ours = 0.0
    for row in loop.parts.journal.since(0):
        named = [*row.body.get("new", ()), *row.body.get("replayed", ())]
        for one, weight in zip(named, row.body.get("weights") or [1.0] * len(named), strict=True):
            together += weight
            ours += weight * (one in theirs)
    return ours / together if together else 0.0


def _count(execute: Callable[[str], Any], query: str) -> int:
    return int(execute(query).fetchone()[0])


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


@contextmanager
def _guarded(loop: ClosedLoop, guard: bool) -> Iterator[None]:
    """Without `guard` nothing is evaluated, so that nothing is taken back."""
    if not guard:
        loop.parts.examiner = _Blind(loop.parts.examiner)
    yield


class _Blind(Examiner):
    """Never finds that there is anything to evaluate."""

    def __init__(self, examiner: Examiner) -> None:
        vars(self).update(vars(examiner))

    has_work = False

    def turn(self) -> Verdict | None:
        """Nothing was found."""
        return None
