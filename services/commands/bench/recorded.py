"""Recorded steps: real optimiser steps of a real model, as the versions that pods would be served. Knows the trainer; knows no store.

The demo's model learns from thumbs of the demo's raters on movie reviews and from labelled tweets, with the product's own trainer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForSequenceClassification

from liveloop.settings import Settings
from liveloop.tasks import FeedbackExample, LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import flatten, float_tensors, layout_of, narrow, widen
from liveloop.tasks.lora import ADAPTER_FILE
from liveloop.v1.weights_pb2 import Layout, ModelBundle
from liveloop.weights.patch import Bits
from services.commands.assets import demo_assets
from services.commands.demo_model import demo_start
from services.commands.raters import RatedText, read_study, thumb
from services.learner.micro_batch import MicroBatch
from services.learner.recipes import new_recipe
from services.learner.scope import SCOPE_FILE, add_adapter, frozen_names, parse
from services.learner.trainer import Trainer

SCOPES = ("all", "no-embeddings", "last-2", "head", "lora-8")
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
    cpu = torch.device("cpu")
    recipe = replace(new_recipe(settings, source.bundle, cpu, ""), learning_rate=learning_rate)
    trainer, rng = Trainer(Classification(source.bundle), layout, cpu), random.Random(settings.seed)
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
    """The same model, with all frozen that `scope` does not train, and with its adapters. Raises Misconfigured."""
    config = json.loads(source.bundle.files["config.json"])
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**config))
    _fill(model, source.bundle.layout, widen(source.bits))
    chosen = parse(scope)
    adapter = add_adapter(chosen, model)
    bundle = ModelBundle()
    bundle.CopyFrom(source.bundle)
    bundle.layout.CopyFrom(layout_of(model, frozen=frozen_names(chosen, model).__contains__))
    bundle.files[SCOPE_FILE] = str(chosen).encode()
    if adapter is not None:
        bundle.files[ADAPTER_FILE] = adapter.to_json()
    return replace(source, bundle=bundle, bits=narrow(flatten(model, bundle.layout)))


@torch.no_grad()
def _fill(model: torch.nn.Module, layout: Layout, flat: torch.Tensor) -> None:
    """Copy the state `flat` (fp32, [layout.total]) into `model`."""
    tensors = dict(float_tensors(model))
    for spec in layout.tensors:
        tensors[spec.name].copy_(flat[spec.offset : spec.offset + prod(spec.shape)].view(tuple(spec.shape)))
