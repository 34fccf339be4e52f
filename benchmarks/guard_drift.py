"""Prints what the guard decides while the domain changes under it, and what it would decide by the old split alone. Starts no service.

    .venv/bin/python -m benchmarks.guard_drift [--thumbs 960]

The demo's model, warm-started on tweets, learns from real raters' thumbs on movie reviews, then on Amazon reviews, then on newspaper
editorials (Hutto & Gilbert, ICWSM 2014): the learner's own parts, with a journal and a weight store, in one process. Every EVERY steps the
newest version is evaluated; a step stands for SECONDS of the journal's clock, so that the anchor lies a domain back.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from liveloop.events import Page, Record
from liveloop.settings import Settings
from liveloop.tasks import LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import widen
from liveloop.times import timestamp
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP, Event, Feedback, FeedbackEvent, Input, PredictionEvent
from liveloop.v1.weights_pb2 import ModelBundle
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from services.commands.assets import demo_assets
from services.commands.demo_model import demo_start
from services.commands.raters import LABELS, RatedText, read_domain, read_study, thumb
from services.learner.evaluator import Evaluator
from services.learner.examiner import Examiner
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from services.learner.micro_batch import MicroBatches
from services.learner.publication import Publication
from services.learner.recipes import new_recipe
from services.learner.task_data import Row
from services.learner.trainer import Trainer
from services.learner.verdict import Comparison, Decision, Verdict, Verdicts, compare
from services.learner.warm_start import choose

EVERY = 15
"""Steps between two evaluations."""
SECONDS = 20.0
"""Of the journal's clock that a step stands for."""
CROWD = 8
"""Thumbs in a step."""
DOMAINS = {"movies": "movieReviewSnippets", "Amazon": "amazonReviewSnippets", "editorials": "nytEditorialSnippets"}
_TEST = 300
"""Texts of each domain that nobody judges."""
CPU = torch.device("cpu")


@dataclass(slots=True)
class Clock:
    """The journal's."""

    now: float = 1.7e9

    def __call__(self) -> float:
        """Unix seconds."""
        return self.now


class Watched(Examiner):
    """Writes down what every full evaluation found, beside what the old split alone would lead to."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.found: list[tuple[int, list[Comparison], Decision | None, Decision]] = []
        self.differing: list[float] = []
        self._old_split = Verdicts()

    def _decide(self, done: Any) -> Verdict | None:
        before = self._publication.blessed
        verdict = super()._decide(done)
        old = {one.version: compare(_task(done.right(done.candidate)), _task(one.right)) for one in done.others}
        alone = self._old_split.after_all(1_000, old).decision
        self.differing += [
            sum(done.candidate.right[row] != one.right[row] for row in done.rows) / len(done.rows)
            for one in done.others
            if one.version == before
        ]
        blessed = Decision.BLESS if self._publication.blessed != before else Decision.WATCH
        self.found.append((done.candidate.version, list(done.against().values()), verdict.decision if verdict else blessed, alone))
        return verdict


def _task(right: dict[str, bool]) -> dict[str, bool]:
    return {row: one for row, one in right.items() if row.startswith("task:")}


class Learner:
    """The learner's parts without its services."""

    def __init__(self, folder: Path, bundle: ModelBundle, bits: np.ndarray, train: Sequence[Row], validation: Sequence[Row]) -> None:
        key = Ed25519PrivateKey.generate()
        Publisher.first(DirectoryStore(folder / "weights"), key, bundle, bits).close()
        self.clock, self.rng = Clock(), random.Random(0)
        self.task = Classification(bundle)
        self.journal = Journal(folder / "learner.db", holder="drift", clock=self.clock)
        self.journal.acquire(1)
        self.publisher = Publisher(DirectoryStore(folder / "weights"), key, epoch=self.journal.epoch)
        self.recipe = new_recipe(Settings(learner_threads=1), bundle, CPU, "")
        self.batches = MicroBatches(self.journal.db, _examples(train), self.task.labels)
        self.joiner = Joiner(self.journal.db, labels=self.task.labels, window=1e9)
        self.trainer = Trainer(self.task, bundle.layout, CPU)
        self.trainer.reset(bits)
        self.publication = Publication(self.publisher, self.journal)
        self.journal.change("init", self.recipe, {}, self.publisher.state.digest, version=1)
        self.publication.know_current()
        labelled = {f"task:{number}": row for number, row in enumerate(_examples(validation))}
        evaluator = Evaluator(self.task, bundle.layout, labelled, CPU)
        self.examiner = Watched(evaluator, self.journal, self.batches, self.trainer, self.publication)
        self._flat = widen(bits)
        self._model = self.task.new_model(bundle.layout, self._flat)
        self._position = 0

    def answers(self, texts: Sequence[str]) -> list[str]:
        """What is served now says."""
        self._flat.copy_(widen(self.publisher.state.bits))
        return [LABELS[label] for label in choose(self.task, self._model, texts)]

    def crowd(self, items: Sequence[RatedText]) -> None:
        """One rater each judges the answer to a text."""
        for item, answer in zip(items, self.answers([item.text for item in items]), strict=True):
            said = thumb(item, answer, self.rng)
            if said is not None:
                self._tell(item.text, answer, THUMB_UP if said else THUMB_DOWN)

    def _tell(self, text: str, answer: str, said: Any) -> None:
        of, now = str(uuid.UUID(int=self.rng.getrandbits(128))), timestamp(self.clock())
        prediction = PredictionEvent(prediction_id=of, input=Input(text=text), label=answer, version=1, created_at=now)
        judged = FeedbackEvent(feedback=Feedback(prediction_id=of, feedback_id="x", thumb=said), judge=b"j", accepted_at=now)
        self.journal.ingest(
            Page([Record(0, self._position, [Event(prediction=prediction), Event(feedback=judged)])], frozenset()), self.joiner
        )
        self._position += 1

    def step(self) -> None:
        """Learn from what waits, and publish it."""
        self.clock.now += SECONDS
        batch = self.batches.choose(nominal=self.recipe.micro_batch, limit=64, rng=self.rng)
        self.trainer.apply(self.trainer.compute(batch, self.recipe, self.journal.next_row()), self.recipe)
        staged = self.publication.stage(self.trainer.bits)
        row = self.journal.train(batch, self.recipe, staged.digest, losses={})
        self.publication.publish(row, staged)

    def evaluate(self) -> Verdict | None:
        """The newest version, all of it."""
        while self.examiner.has_work:
            if verdict := self.examiner.turn():
                return verdict
        return None


def _examples(rows: Sequence[Row]) -> list[LabelledExample]:
    return [LabelledExample(row.text, LABELS.index(row.label)) for row in rows]


def run(thumbs: int) -> None:
    """Let the domains pass, and print what came of it."""
    settings = Settings()
    bundle, bits, data = demo_start(settings, Console(stderr=True))
    study = demo_assets(settings.cache, Console(stderr=True)).study
    tests = {"tweets": read_study(study).tweets_test[:_TEST]}
    streams = {}
    for name, domain in DOMAINS.items():
        texts = read_domain(study, domain)
        tests[name], streams[name] = texts[:_TEST], texts[_TEST:]
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(Path(folder), bundle, bits, data.train, data.validation)
        print(f"{'after':12}{'version':>8}{'blessed':>8}" + "".join(f"{name:>12}" for name in tests) + "   right answers, %")
        _say("warm start", learner, tests)
        rollbacks = 0
        for name, stream in streams.items():
            for number, start in enumerate(range(0, min(thumbs, len(stream)), CROWD), start=1):
                learner.crowd(stream[start : start + CROWD])
                learner.step()
                rollbacks += number % EVERY == 0 and learner.evaluate() is not None
            _say(name, learner, tests)
        _say_decisions(learner.examiner, rollbacks)


def _say(when: str, learner: Learner, tests: dict[str, list[RatedText]]) -> None:
    head = learner.publisher.head
    shares = []
    for items in tests.values():
        answers = learner.answers([item.text for item in items])
        shares.append(sum(item.label == answer for item, answer in zip(items, answers, strict=True)) / len(items))
    print(f"{when:12}{head.current:8}{head.blessed:8}" + "".join(f"{100 * share:12.1f}" for share in shares), flush=True)


def _say_decisions(examiner: Watched, rollbacks: int) -> None:
    decisions = [decision for _, _, decision, _ in examiner.found]
    alone = [decision for *_, decision in examiner.found]
    counts = {decision.value: (decisions.count(decision), alone.count(decision)) for decision in Decision}
    print(f"\n{len(examiner.found)} evaluations" + f"{'all splits':>16}{'old split alone':>18}")
    for name, (ours, old) in counts.items():
        print(f"  {name:14}{ours:16}{old:18}")
    worst = max((one for _, found, *_ in examiner.found for one in found), key=lambda one: one.drop / one.error if one.error else 0.0)
    print(f"rollbacks: {rollbacks}; the worst comparison: {worst.words}")
    print(f"rows that the newest and the blessed version answer differently: {100 * float(np.median(examiner.differing)):.1f} % (median)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--thumbs", type=int, default=960)
    started = time.process_time()
    run(parser.parse_args().thumbs)
    print(f"{time.process_time() - started:.0f} s of processor time")
