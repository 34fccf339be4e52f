"""Supervised training before the first version, and how good the result is. Knows labelled rows and models, no feedback."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from liveloop.tasks import LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.v1.weights_pb2 import Layout, ModelBundle
from services.learner.task_data import Row

_BATCH = 16
_PATIENCE = 2
"""Epochs without a better validation score after which training stops."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train."""

    epochs: int = 4
    learning_rate: float = 1e-4  # the highest; it falls to 0 in a straight line
    seconds: float = float("inf")  # time after which training ends in whatever epoch it is
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Report:
    """How well some weights answer some rows."""

    rows: int
    accuracy: float
    macro_f1: float  # over the labels that occur
    recall: dict[str, float]
    support: dict[str, int]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training."""

    flat: torch.Tensor  # fp32, [layout.total], on the CPU: the best by validation accuracy, or the last where there is no validation data
    complete: bool  # all epochs, or until they stopped helping; False: it was cut short by the time


Progress = Callable[[float, str], None]
"""Told the share of the training that is done, in [0, 1], and a few words."""


def train(
    bundle: ModelBundle, flat: torch.Tensor, rows: Sequence[Row], validation: Sequence[Row], plan: Plan, progress: Progress
) -> Trained:
    """Train on `rows` from the state `flat` (fp32, [layout.total]), choosing the epoch by `validation`.

    AdamW on cross-entropy, without dropout: what is trained is the function that is served.
    """
    task = Classification(bundle)
    flat = flat.to(plan.device, copy=True)
    gradients = torch.zeros(bundle.layout.total - bundle.layout.frozen, device=flat.device)
    model = task.new_model(bundle.layout, flat, gradients)
    parameter = torch.nn.Parameter(flat[bundle.layout.frozen :])
    parameter.grad = gradients
    optimizer = torch.optim.AdamW([parameter], fused=True)
    examples = _examples(task, rows)
    best = _Best(_examples(task, validation), flat)
    clock = _Clock(plan, batches=-(-len(examples) // _BATCH))
    late = False
    for epoch in range(plan.epochs):
        for batch in _batches(task, examples, random.Random(f"{plan.seed}/{epoch}")):
            optimizer.param_groups[0]["lr"] = plan.learning_rate * (1 - clock.done)
            gradients.zero_()
            task.task_loss(model, batch).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameter, 1.0)
            optimizer.step()
            clock.step()
            progress(clock.done, f"epoch {epoch + 1} of {plan.epochs}, {best.words}")
            if late := clock.late:
                break
        best.see(task, model)
        progress(clock.done, f"epoch {epoch + 1} of {plan.epochs}, {best.words}")
        if late or best.stale >= _PATIENCE:
            break
    return Trained(best.flat, complete=not late)


class _Clock:
    """How far the training is. The learning rate follows the steps alone: what is trained does not depend on the machine's speed."""

    def __init__(self, plan: Plan, batches: int) -> None:
        self._steps = 0
        self._total = max(plan.epochs * batches, 1)
        self._ends = time.monotonic() + plan.seconds

    def step(self) -> None:
        self._steps += 1

    @property
    def done(self) -> float:
        return self._steps / self._total

    @property
    def late(self) -> bool:
        """The time ran out before the steps did."""
        return self._steps < self._total and time.monotonic() > self._ends


class _Best:
    """The best state so far, by accuracy on the validation rows."""

    def __init__(self, validation: Sequence[LabelledExample], flat: torch.Tensor) -> None:
        self._validation = validation
        self._live = flat
        self._score = -1.0
        self.flat = flat.cpu().clone()
        self.stale = 0

    def see(self, task: Classification, model: torch.nn.Module) -> None:
        texts = [row.text for row in self._validation]
        right = [found == row.label for found, row in zip(choose(task, model, texts), self._validation, strict=True)]
        score = sum(right) / len(right) if right else 0.0
        if score > self._score or not right:
            self._score, self.stale = score, 0
            self.flat = self._live.cpu().clone()
        else:
            self.stale += 1

    @property
    def words(self) -> str:
        return f"validation accuracy {100 * self._score:.1f} %" if self._validation and self._score >= 0 else "training"


def _examples(task: Classification, rows: Sequence[Row]) -> list[LabelledExample]:
    numbers = {label: number for number, label in enumerate(task.labels)}
    return [LabelledExample(row.text, numbers[row.label]) for row in rows]


def _batches(task: Classification, examples: Sequence[LabelledExample], rng: random.Random) -> list[list[LabelledExample]]:
    """Batches of texts of like length in a random order: little padding, and another composition each time."""
    shuffled = rng.sample(list(examples), len(examples))
    lengths = {row.text: len(item.tokens) for row, item in zip(shuffled, task.encode([row.text for row in shuffled]), strict=True)}
    pool = 8 * _BATCH
    ordered = [row for at in range(0, len(shuffled), pool) for row in sorted(shuffled[at : at + pool], key=lambda row: lengths[row.text])]
    batches = [ordered[at : at + _BATCH] for at in range(0, len(ordered), _BATCH)]
    return rng.sample(batches, len(batches))


def choose(task: Classification, model: torch.nn.Module, texts: Sequence[str]) -> list[int]:
    """The label chosen for each text, in the order of the texts; computed in batches of texts of like length."""
    inputs = task.encode(texts)
    order = sorted(range(len(inputs)), key=lambda at: len(inputs[at].tokens))
    chosen = [0] * len(inputs)
    for start in range(0, len(order), 4 * _BATCH):
        places = order[start : start + 4 * _BATCH]
        for place, answer in zip(places, task.answer(model, [inputs[at] for at in places]), strict=True):
            chosen[place] = answer.label
    return chosen


def evaluate(bundle: ModelBundle, flat: torch.Tensor, rows: Sequence[Row]) -> tuple[Report, list[int]]:
    """How well the state `flat` answers `rows`, and what it chose for each."""
    task = Classification(bundle)
    chosen = choose(task, task.new_model(bundle.layout, flat), [row.text for row in rows])
    return _report([row.label for row in rows], [task.labels[label] for label in chosen], task.labels), chosen


def _report(right: Sequence[str], chosen: Sequence[str], labels: Sequence[str]) -> Report:
    from sklearn.metrics import precision_recall_fscore_support  # seconds to import, and training needs none of it

    _, recalls, scores, supports = precision_recall_fscore_support(right, chosen, labels=list(labels), average=None, zero_division=0.0)
    occurring = [score for score, support in zip(scores, supports, strict=True) if support]
    return Report(
        rows=len(right),
        accuracy=sum(a == b for a, b in zip(right, chosen, strict=True)) / len(right),
        macro_f1=float(sum(occurring) / len(occurring)),
        recall={label: float(value) for label, value in zip(labels, recalls, strict=True)},
        support={label: int(value) for label, value in zip(labels, supports, strict=True)},
    )


def memory(layout: Layout) -> tuple[float, float]:
    """Bytes that the weights take at most in each inference process, and in the learner; activations and libraries come on top."""
    trained = layout.total - layout.frozen
    inference = 2 * layout.total + 2 * 4 * layout.total  # bf16 state, two fp32 sets
    states = 2 * 2 * layout.total + 2 * 4 * layout.total  # published and staged bf16; master, evaluated
    learning = 4 * 4 * trained  # EMA, gradients, two moments
    compared = 4 * 2 * trained  # what is served in the newest, a probed, the blessed and the anchor version
    saving = 4 * 4 * trained  # a copy of master, EMA and moments while it is written to disk
    return inference, states + learning + compared + saving
