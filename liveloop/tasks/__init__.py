"""The seam between model families: what a service asks of a task, whatever the model. Knows torch; knows no service.

flat.py            one flat buffer as a model's memory: every parameter is a view into it
lora.py            low-rank adapters beside a model's linear layers
bert.py            BERT without transformers' modelling code; every other model comes from transformers
objectives.py      the losses that feedback can be learnt from by
classification.py  text classification
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from liveloop.v1.weights_pb2 import Layout, ModelBundle

if TYPE_CHECKING:  # who only handles inputs and answers does not wait seconds for torch
    import torch


@dataclass(frozen=True, slots=True)
class Encoded:
    """One input as the model reads it."""

    tokens: tuple[int, ...]
    truncated: bool  # it was longer than the model reads and was cut


@dataclass(frozen=True, slots=True)
class Answer:
    """What the policy chose for one input."""

    label: int  # index into the task's labels
    probabilities: tuple[float, ...]  # of all labels, in their order; sums to 1
    propensity: float  # probability with which the policy chose `label`


@dataclass(frozen=True, slots=True)
class LabelledExample:
    """A row of the task data."""

    text: str
    label: int


@dataclass(frozen=True, slots=True)
class FeedbackExample:
    """A joined feedback, ready to learn from."""

    text: str
    label: int  # what was answered, or for a correction what it should have been
    sign: int  # +1: `label` was right (a thumb up, a correction); -1: it was wrong
    weight: float  # non-negative: 1 for a thumb or a correction, |2r - 1| for a rating r
    propensity: float = 1.0  # with which the serving policy chose what was answered
    is_correction: bool = False  # it names the right label: a correction or a labelled row


@dataclass(frozen=True, slots=True)
class Objective:
    """How a step learns from feedback, and what it must stay near."""

    loss: str  # a name in liveloop.tasks.objectives.LOSSES
    nominal: int  # what the sum of the feedback losses is divided by at the least
    baselines: torch.Tensor  # [3], running means that some losses compare with
    reference: torch.nn.Module | None = None  # the first version's model; none where nothing asks for it
    measures_kl: bool = False  # the divergence from the reference is a part of the loss


@dataclass(frozen=True, slots=True)
class Losses:
    """What one step minimises, part by part; scalars."""

    task: torch.Tensor  # mean over labelled rows
    feedback: torch.Tensor  # sum of the weighted losses over feedbacks, divided by max(nominal, their number)
    kl: torch.Tensor  # mean KL(reference || model) over all texts of the step; 0 where it is not measured
    baselines: torch.Tensor  # as they are after the step


class Task(Protocol):
    """One kind of model: how it reads inputs, answers, learns and is judged."""

    labels: tuple[str, ...]

    @property
    def bundle(self) -> ModelBundle:
        """What another process needs to build this task."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise; safe to call from any thread."""
        ...

    def new_model(
        self, layout: Layout, flat: torch.Tensor, gradients: torch.Tensor | None = None, *, trained: torch.Tensor | None = None
    ) -> torch.nn.Module:
        """A model that computes from `flat` (fp32, [layout.total]) without copying it.

        With `gradients` ([layout.total - layout.frozen]) the tensors that are not frozen accumulate their gradients into it. With
        `trained`, of the same shape, they are views of that instead: two models share what is frozen.
        """
        ...

    def answer(self, model: torch.nn.Module, inputs: Sequence[Encoded]) -> list[Answer]:
        """Answer a batch; one answer per input, in order."""
        ...

    def task_loss(self, model: torch.nn.Module, rows: Sequence[LabelledExample]) -> torch.Tensor:
        """Mean loss over labelled rows, a scalar."""
        ...

    def losses(
        self, model: torch.nn.Module, rows: Sequence[LabelledExample], feedback: Sequence[FeedbackExample], objective: Objective
    ) -> Losses:
        """What a step on labelled rows and feedback minimises; what there is none of is 0."""
        ...
