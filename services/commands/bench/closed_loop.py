"""The learner's own loop in one process, with people who are simulated: answers, judgements, steps, as fast as they go.

Nothing here learns: events go into a real event log, and the product's reader, joiner, guard, trainer, journal and publisher do the rest.
"""

from __future__ import annotations

import random
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from liveloop.events import open_log
from liveloop.rows import EXAMPLE
from liveloop.settings import Settings
from liveloop.tasks import Answer
from liveloop.tasks.flat import as_bf16
from liveloop.v1.events_pb2 import (
    CHANNEL_CURRENT,
    THUMB_DOWN,
    THUMB_UP,
    Event,
    ExampleEvent,
    Feedback,
    FeedbackEvent,
    Input,
    PredictionEvent,
)
from services.commands.bench.subjects import Subject
from services.commands.initial import publish
from services.learner.assembly import assemble, new_loop, new_publisher
from services.learner.joiner import HELD_OUT_SHARE, is_held_out
from services.learner.journal import Journal
from services.learner.loop import LearnerLoop
from services.learner.materials import Materials, choose_device, load_materials
from services.learner.parts import Parts
from services.learner.resume import resume
from services.learner.warm_start import choose


@dataclass(frozen=True, slots=True)
class Said:
    """What one person did with one text."""

    text: str
    judge: bytes
    up: bool | None = None  # a thumb on the answer
    label: str = ""  # or the right label, given without an answer


class ClosedLoop:
    """A loop that begins with a subject's first version."""

    def __init__(self, settings: Settings, materials: Materials, parts: Parts, loop: LearnerLoop) -> None:
        self._materials, self._task, self._loop = materials, materials.task, loop
        self.parts = parts
        self._flat = torch.zeros(materials.layout.total)
        self._flat.copy_(as_bf16(parts.publication.publisher.state.bits))
        self._model = self._task.new_model(materials.layout, self._flat)
        self._rng = random.Random(f"ids/{settings.seed}")
        self._began = time.time()
        self._fed = 0

    @property
    def version(self) -> int:
        """The version that answers."""
        return int(self.parts.publication.publisher.head.current)

    def answer(self, texts: Sequence[str]) -> list[Answer]:
        """What the served version says to a few texts."""
        self._load()
        return self._task.answer(self._model, self._task.encode(texts))

    def label(self, answer: Answer) -> str:
        """The name of the label that was chosen."""
        return self._task.labels[answer.label]

    def right(self, texts: Sequence[str], labels: Sequence[str]) -> list[bool]:
        """Which of many texts the served version answers rightly."""
        self._load()
        chosen = choose(self._task, self._model, texts)
        return [self._task.labels[found] == label for found, label in zip(chosen, labels, strict=True)]

    def take(self, said: Sequence[Said], answers: Sequence[Answer]) -> None:
        """Send what people said into the log, and turn until it is learnt from. `answers` are those of the texts with a thumb."""
        events: list[Event] = []
        for one, answer in zip(said, answers, strict=True):
            events += self._row(one) if one.label else self._thumb(one, answer)
        self.parts.log.append(events)
        self._turn_until_learnt()

    def rest(self, seconds: float = 1800.0) -> None:
        """Nobody says anything: turn until nothing is left to do."""
        ends = time.monotonic() + seconds
        while not self._loop.is_quiet and time.monotonic() < ends:
            self._loop.turn()

    def _turn_until_learnt(self) -> None:
        """A refused step sets its feedback aside, so this ends."""
        self._loop.turn()
        while self.parts.batches.waiting() and not self.parts.journal.is_paused():
            self._loop.turn()

    def _thumb(self, said: Said, answer: Answer) -> list[Event]:
        label, created_at = self.label(answer), self._now()
        name = self._name("")
        prediction = PredictionEvent(
            prediction_id=name,
            input=Input(text=said.text),
            label=label,
            version=self.version,
            propensity=answer.propensity,
            score=answer.probabilities[answer.label],
            asker=said.judge,
            channel=CHANNEL_CURRENT,
        )
        prediction.created_at.FromMicroseconds(int(created_at * 1e6))
        if said.up is None:
            return [Event(prediction=prediction)]
        feedback = Feedback(feedback_id=name, prediction_id=name, thumb=THUMB_UP if said.up else THUMB_DOWN)
        given = FeedbackEvent(feedback=feedback, judge=said.judge)
        given.accepted_at.FromMicroseconds(int(created_at * 1e6))
        return [Event(prediction=prediction), Event(feedback=given)]

    def _row(self, said: Said) -> list[Event]:
        row = ExampleEvent(example_id=self._name(EXAMPLE), input=Input(text=said.text), label=said.label, judge=said.judge)
        row.accepted_at.FromMicroseconds(int(self._now() * 1e6))
        return [Event(example=row)]

    def _name(self, prefix: str) -> str:
        """A UUIDv7 of now. Every tenth is one that is held out, at places that the seed decides: the time in it would decide otherwise."""
        held_out = self._rng.randrange(HELD_OUT_SHARE) == 0
        while True:
            number = int(self._now() * 1000) << 80 | 7 << 76 | self._rng.getrandbits(12) << 64 | 2 << 62 | self._rng.getrandbits(62)
            name = str(uuid.UUID(int=number))
            if is_held_out(prefix + name) == held_out:
                return name

    def _now(self) -> float:
        """Unix seconds; of two judgements the later one is later."""
        self._fed += 1
        return self._began + 1e-5 * self._fed

    def _load(self) -> None:
        frozen, bits = self._materials.layout.frozen, self.parts.publication.publisher.state.bits
        self._flat[frozen:].copy_(as_bf16(bits[frozen:]))


@contextmanager
def closed_loop(settings: Settings, subject: Subject) -> Iterator[ClosedLoop]:
    """A loop in a folder of its own, which goes with it. Steps follow each other at once."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="liveloop-bench-")))
        own = settings.model_copy(update={"data": folder / "data", "events_url": "", "weights_url": "", "step_interval": 0.0})
        publish(own, subject.bundle, np.asarray(subject.bits), subject.task_data, Console(quiet=True))
        device = choose_device(own)
        materials = load_materials(own, device)
        torch.set_num_threads(materials.recipe.threads)
        journal = stack.enter_context(closing(Journal(own.data / "learner.db", holder="bench")))
        assert journal.acquire(at_least=materials.epoch)
        log = stack.enter_context(open_log(own))
        publisher = stack.enter_context(new_publisher(own, materials, journal))
        parts = assemble(own, materials, materials.trainer(device), journal, log, publisher)
        stack.enter_context(closing(parts.tensors))
        stack.enter_context(journal.held())
        resume(parts, materials.recipe)
        yield ClosedLoop(own, materials, parts, new_loop(own, materials, parts))
