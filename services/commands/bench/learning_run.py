"""One run of the learning table: a subject, an arm and a seed, and how accuracy goes with the number of judgements. Prints nothing.

frozen   version 1, as it is
thumbs   one person, drawn at random, says of each answer whether it was right
labels   the same texts with their right labels, as they come: what could be learnt from them online
offline  the same labels, three epochs at once: the upper bound
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from liveloop.settings import Settings
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import narrow, widen
from services.commands.bench.closed_loop import ClosedLoop, Said, closed_loop
from services.commands.bench.subjects import Domain, Item, Subject
from services.learner.task_data import Row
from services.learner.warm_start import Plan, choose, train

ARMS = ("frozen", "thumbs", "labels", "offline")
_JUDGES = 300
"""People; how much each of them says follows a log-normal distribution."""
_AT_ONCE = 8
"""Judgements between two steps: the nominal micro-batch."""
_EPOCHS = 3

Told = Callable[[float, str], None]
"""Told the share that is done, in [0, 1], and a few words."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A text that is shown to somebody, and what they are up to."""

    item: Item
    judge: bytes
    pushes: str = ""  # says that this label is right, whatever the text; empty: an honest judgement
    contrary: bool = False  # says the contrary of what they hold


@dataclass(slots=True)
class Curve:
    """What a run found; plain values, to be stored as JSON."""

    judged: int = 0  # thumbs, or labels
    points: list[dict[str, Any]] = field(default_factory=list)  # judged, and the accuracy on each test set
    progressive: float | None = None  # share of the honest answers that were right when they were given
    versions: int = 0
    decisions: dict[str, int] = field(default_factory=dict)  # of the guard

    def at(self, judged: int, test: str) -> float | None:
        """Accuracy on a test set after so many judgements."""
        return next((point[test] for point in self.points if point["judged"] == judged and test in point), None)


def visits(subject: Subject, domain: Domain, rng: random.Random) -> Iterator[Visit]:
    """The texts of a stream in a random order, each to a person drawn by how much they say."""
    judges = [f"judge {number}".encode() for number in range(_JUDGES)]
    activity = [rng.lognormvariate(0.0, 1.0) for _ in judges]
    for item in rng.sample(list(domain.stream), len(domain.stream)):
        contrary = rng.random() < subject.noise
        yield Visit(item, rng.choices(judges, activity)[0], contrary=contrary)


Feed = Callable[[Subject, Domain, random.Random], Iterator[Visit]]


def frozen(subject: Subject) -> Curve:
    """How good version 1 is."""
    return Curve(points=[{"judged": 0, **_test(subject, widen(subject.bits))}])


def online(
    settings: Settings, subject: Subject, arm: str, seed: int, checkpoints: Sequence[int], progress: Told, *, feed: Feed = visits
) -> Curve:
    """Run thumbs or labels through a closed loop; `checkpoints` are numbers of judgements of each stream, `feed` is who comes."""
    curve, rng = Curve(), random.Random(f"visits/{seed}")
    with closed_loop(settings.model_copy(update={"seed": seed}), subject) as loop:
        curve.points.append({"judged": 0, **_tested(loop, subject)})
        run = _Run(loop, arm, random.Random(f"votes/{seed}"), curve, progress, total=len(subject.streams) * checkpoints[-1])
        for domain in subject.streams:
            begun, shown = curve.judged, feed(subject, domain, rng)
            for checkpoint in checkpoints:
                run.until(begun + checkpoint, shown)
                everything = checkpoint == checkpoints[-1]
                tested = _tested(loop, subject) if everything else _tested(loop, subject, only=domain.name)
                curve.points.append({"judged": curve.judged, "after": domain.name, **tested})
        if arm == "thumbs":
            loop.rest()
            curve.points.append({"judged": curve.judged, "after": "rest", **_tested(loop, subject)})
        run.close()
    return curve


def offline(settings: Settings, subject: Subject, seed: int, items: int, progress: Told) -> Curve:
    """Task data and the right labels of the same texts, from version 1, three epochs."""
    rng = random.Random(f"visits/{seed}")
    shown = [visit.item for domain in subject.streams for visit in islice(visits(subject, domain, rng), items)]
    rows = [Row(item.text, item.label) for item in shown]
    torch.set_num_threads(settings.learner_threads or torch.get_num_threads())
    known = [*subject.task_data.train, *rows]
    trained = train(subject.bundle, widen(subject.bits), known, subject.task_data.validation, Plan(epochs=_EPOCHS, seed=seed), progress)
    return Curve(judged=len(rows), points=[{"judged": len(rows), **_test(subject, widen(narrow(trained.flat)))}])


class _Run:
    """The stream of one arm, a few judgements at a time."""

    def __init__(self, loop: ClosedLoop, arm: str, rng: random.Random, curve: Curve, progress: Told, *, total: int) -> None:
        self._loop, self._arm, self._rng, self._curve, self._progress, self._total = loop, arm, rng, curve, progress, total
        self._right: list[bool] = []

    def until(self, judged: int, feed: Iterator[Visit]) -> None:
        """Until there are so many judgements, or no texts are left."""
        while self._curve.judged < judged:
            wanted = min(_AT_ONCE, judged - self._curve.judged)
            shown = list(islice(feed, wanted))
            if not shown:
                return
            self._turn(shown)
            self._progress(self._curve.judged / self._total, f"{self._arm}, {self._curve.judged} of {self._total}")

    def close(self) -> None:
        """Note what is known at the end."""
        rows = self._loop.parts.journal.db.execute("SELECT json_extract(body, '$.decision') FROM rows WHERE kind = 'note'").fetchall()
        for (decision,) in rows:
            self._curve.decisions[decision] = self._curve.decisions.get(decision, 0) + 1
        self._curve.progressive = sum(self._right) / len(self._right) if self._right else None
        self._curve.versions = self._loop.version

    def _turn(self, shown: Sequence[Visit]) -> None:
        answers = self._loop.answer([visit.item.text for visit in shown])
        self._right += [self._loop.label(answer) == visit.item.label for visit, answer in zip(shown, answers, strict=True)]
        if self._arm == "labels":
            said = [Said(visit.item.text, visit.judge, label=visit.item.label) for visit in shown]
            self._curve.judged += len(said)
        else:
            said = [
                Said(visit.item.text, visit.judge, up=self._thumb(visit, self._loop.label(answer)))
                for visit, answer in zip(shown, answers, strict=True)
            ]
            self._curve.judged += sum(one.up is not None for one in said)
        self._loop.take(said, answers)

    def _thumb(self, visit: Visit, answered: str) -> bool | None:
        if visit.pushes:
            return answered == visit.pushes
        held = visit.item.vote(self._rng)
        return None if held is None else (held == answered) is not visit.contrary


def _tested(loop: ClosedLoop, subject: Subject, *, only: str = "") -> dict[str, float]:
    tests = [one for one in subject.tests if not only or one.name == only]
    found = {one.name: loop.right([item.text for item in one.test], [item.label for item in one.test]) for one in tests}
    return {name: sum(right) / len(right) for name, right in found.items()}


def _test(subject: Subject, flat: torch.Tensor) -> dict[str, float]:
    task = Classification(subject.bundle)
    model = task.new_model(subject.bundle.layout, flat)
    found = {}
    for one in subject.tests:
        chosen = choose(task, model, [item.text for item in one.test])
        found[one.name] = sum(task.labels[at] == item.label for at, item in zip(chosen, one.test, strict=True)) / len(one.test)
    return found
