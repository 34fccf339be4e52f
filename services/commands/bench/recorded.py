"""Recorded steps: real optimiser steps of a real model, as the versions that pods would be served. Knows the trainer; knows no store.

The demo's model learns from thumbs of the demo's raters on movie reviews and from labelled tweets, with the product's own trainer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from rich.console import Console

from liveloop.settings import Settings
from liveloop.tasks import FeedbackExample, LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import widen
from liveloop.v1.weights_pb2 import ModelBundle, TensorSpec
from liveloop.weights.patch import Bits
from services.commands.assets import demo_assets
from services.commands.demo_model import demo_start
from services.commands.raters import RatedText, read_study, thumb
from services.learner.micro_batch import MicroBatch
from services.learner.trainer import Recipe, Trainer

SCOPES = ("all", "no-embeddings", "last-2", "head")
LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4)


@dataclass(frozen=True, slots=True)
class Source:
    """What steps are recorded from: a first version, and what it can learn."""

    bundle: ModelBundle
    bits: Bits  # version 1, [layout.total]
    judged: Sequence[FeedbackExample]
    labelled: Sequence[LabelledExample]


def demo_source(settings: Settings, console: Console, *, judged: int) -> Source:
    """The demo's model, at most `judged` thumbs of its raters on version 1's answers, and its tweets. Raises Misconfigured."""
    bundle, bits, data = demo_start(settings, console)
    study = read_study(demo_assets(settings.cache, console).study)
    index = {label: number for number, label in enumerate(bundle.labels)}
    labelled = [LabelledExample(row.text, index[row.label]) for row in data.train]
    return Source(bundle, bits, judge(bundle, bits, study.reviews_stream[:judged]), labelled)


def judge(bundle: ModelBundle, bits: Bits, texts: Sequence[RatedText]) -> list[FeedbackExample]:
    """What one rater of each text says to the answer of the version `bits`; nothing where the rater saw no sentiment."""
    task, rng = Classification(bundle), random.Random(0)
    model = task.new_model(bundle.layout, widen(bits))
    found = []
    for item in texts:
        answer = task.answer(model, task.encode([item.text]))[0].label
        up = thumb(item, bundle.labels[answer], rng)
        if up is not None:
            found.append(FeedbackExample(item.text, answer, +1 if up else -1, 1.0))
    return found


def record(source: Source, settings: Settings, *, learning_rate: float, steps: int) -> Iterator[Bits]:
    """The served bits of version 1, then after each of `steps` optimiser steps: [layout.total] each, copies."""
    layout = source.bundle.layout
    recipe = Recipe(
        learning_rate=learning_rate,
        feedback_weight=settings.feedback_weight,
        ema_decay=settings.ema_decay,
        clip_norm=settings.clip_norm,
        micro_batch=settings.micro_batch,
        seed=settings.seed,
        task_data="",
        threads=torch.get_num_threads(),
        device="cpu",
        torch=torch.__version__,
    )
    trainer, rng = Trainer(Classification(source.bundle), layout, torch.device("cpu")), random.Random(settings.seed)
    trainer.reset(source.bits)
    yield trainer.bits.copy()
    for step in range(1, steps + 1):
        trainer.apply(trainer.compute(_batch(source, recipe.micro_batch, rng), recipe, step), recipe)
        yield trainer.bits.copy()


def _batch(source: Source, size: int, rng: random.Random) -> MicroBatch:
    """A micro-batch as the learner makes them: new feedback, and labelled rows beside it."""
    feedback = tuple(rng.sample(range(len(source.judged)), min(size, len(source.judged))))
    task = tuple(rng.sample(range(len(source.labelled)), min(size, len(source.labelled))))
    return MicroBatch(feedback, (), task, tuple(source.judged[at] for at in feedback), tuple(source.labelled[at] for at in task))


def scoped(source: Source, scope: str) -> Source:
    """The same model, with all tensors frozen that `scope` does not train; frozen tensors come first in the layout."""
    return _laid_out(source, lambda name: not _trains(name, scope, source.bundle))


def _trains(name: str, scope: str, bundle: ModelBundle) -> bool:
    if scope == "all":
        return True
    if scope == "no-embeddings":
        return "word_embeddings" not in name
    if name.startswith("classifier"):
        return True
    layers = sorted({int(spec.name.split(".layer.")[1].split(".")[0]) for spec in bundle.layout.tensors if ".layer." in spec.name})
    return scope == "last-2" and (".pooler." in name or any(f".layer.{layer}." in name for layer in layers[-2:]))


def _laid_out(source: Source, frozen: Callable[[str], bool]) -> Source:
    bundle = ModelBundle()
    bundle.CopyFrom(source.bundle)
    layout, offset, pieces = bundle.layout, 0, []
    del layout.tensors[:]
    for is_frozen in (True, False):
        for spec in source.bundle.layout.tensors:
            if frozen(spec.name) is is_frozen:
                size = prod(spec.shape)
                layout.tensors.append(TensorSpec(name=spec.name, shape=spec.shape, offset=offset))
                pieces.append(source.bits[spec.offset : spec.offset + size])
                offset += size
        if is_frozen:
            layout.frozen = offset
    return replace(source, bundle=bundle, bits=np.concatenate(pieces))
