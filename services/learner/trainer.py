"""Master weights, moments and EMA as flat buffers, and one optimiser step on them. Knows torch and a task; knows no log and no store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
from blake3 import blake3

from liveloop.tasks import Task
from liveloop.tasks.flat import as_bf16
from liveloop.v1.weights_pb2 import Layout
from services.learner.experts import weighted
from services.learner.micro_batch import MicroBatch


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything beside the micro-batches that decides what a step computes. Its digest stands in every journal row."""

    learning_rate: float
    feedback_weight: float  # lambda in L_task + lambda * L_FB
    warm_up: int  # steps from fresh moments over which the learning rate rises to its full height
    ema_decay: float  # at the most
    clip_norm: float
    micro_batch: int  # nominal size: what the feedback loss is divided by at the least
    expert_weight: float  # what an expert's word weighs, where anybody else's weighs 1
    expert_share: float  # of a step's places, whose weight experts have at the most together
    seed: int
    task_data: str  # digest of the task data the row's indices point into
    threads: int
    device: str
    torch: str

    @property
    def body(self) -> str:
        """As JSON, the same for the same recipe."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def digest(self) -> str:
        """blake3 of the body, in hex."""
        return blake3(self.body.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StepReport:
    """What the gradients of one micro-batch look like, before they are applied."""

    task_loss: float
    feedback_loss: float
    gradient_norm: float  # L2, before clipping


class Trainer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101; no weight decay) on one flat parameter.

    From fresh moments AdamW moves every weight by the whole learning rate, whatever the gradient: the first steps are shorter.

    Served is an exponential moving average of the master, cast to bf16: it takes the swings out of single steps. Its memory grows with the
    steps n since it last settled, decay = min(ema_decay, (1 + n) / (10 + n)) as TensorFlow's ExponentialMovingAverage has it: a lone thumb
    is served nearly whole at once, a long stream as the mean of many steps.
    """

    def __init__(self, task: Task, layout: Layout, device: torch.device) -> None:
        self._task = task
        self._frozen = layout.frozen
        trainable = layout.total - layout.frozen
        self._master = torch.zeros(layout.total, device=device)
        self._gradients = torch.zeros(trainable, device=device)
        self._ema = torch.zeros(trainable, device=device)
        self._model = task.new_model(layout, self._master, self._gradients)
        self._parameter = torch.nn.Parameter(self._master[self._frozen :])
        self._parameter.grad = self._gradients
        self._optimizer = torch.optim.AdamW([self._parameter], lr=0.0, weight_decay=0.0, fused=True)
        self._moments = {
            "exp_avg": torch.zeros_like(self._ema),
            "exp_avg_sq": torch.zeros_like(self._ema),
            "step": torch.zeros((), device=device),
        }
        self._averaged = torch.zeros(())  # steps since the average last settled
        self._optimizer.state[self._parameter] = self._moments
        self.bits = np.zeros(layout.total, dtype=np.uint16)
        """The served state, [layout.total]: kept up to date by every method that changes it."""
        self._served = torch.from_numpy(self.bits[self._frozen :]).view(torch.bfloat16)  # the same memory

    def compute(self, batch: MicroBatch, recipe: Recipe, row: int) -> StepReport:
        """Gradients of `L_task + feedback_weight * L_FB` on one micro-batch. Changes nothing that `apply` does not use up."""
        torch.manual_seed(recipe.seed * 1_000_003 + row)
        self._gradients.zero_()
        zero = torch.zeros((), device=self._master.device)
        feedback = weighted(batch, nominal=recipe.micro_batch, weight=recipe.expert_weight, share=recipe.expert_share)
        feedback_loss = self._task.feedback_loss(self._model, feedback, recipe.micro_batch) if feedback else zero
        task_loss = self._task.task_loss(self._model, batch.task_examples) if batch.task_examples else zero
        (task_loss + recipe.feedback_weight * feedback_loss).backward()  # type: ignore[no-untyped-call]
        return StepReport(task_loss.item(), feedback_loss.item(), self._gradients.norm().item())

    def apply(self, report: StepReport, recipe: Recipe, *, rate: float = 1.0) -> None:
        """Clip, step with `rate` times the recipe's learning rate, and move the average."""
        if report.gradient_norm > recipe.clip_norm:
            self._gradients.mul_(recipe.clip_norm / report.gradient_norm)
        warmth = min(1.0, (self._moments["step"].item() + 1) / max(1, recipe.warm_up))
        self._optimizer.param_groups[0]["lr"] = recipe.learning_rate * rate * warmth
        self._optimizer.step()
        steps = self._averaged.item()
        self._ema.lerp_(self._parameter.detach(), 1.0 - min(recipe.ema_decay, (1 + steps) / (10 + steps)))
        self._averaged += 1
        self._serve()

    def settle(self) -> None:
        """Move the average half-way to the master; no gradient."""
        self._ema.lerp_(self._parameter.detach(), 0.5)
        self._averaged.zero_()
        self._serve()

    def reset(self, bits: np.ndarray) -> None:
        """Master and average become these served bits ([layout.total], uint16), the moments zero."""
        self._master.copy_(as_bf16(bits))
        self._ema.copy_(self._master[self._frozen :])
        for tensor in (*self._moments.values(), self._averaged):
            tensor.zero_()
        self.bits[:] = bits

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU of all that changes, for a restart."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._state().items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `tensors` returned; frozen values stay as the last `reset` left them."""
        for name, tensor in self._state().items():
            tensor.copy_(tensors[name])
        self._serve()

    def _state(self) -> dict[str, torch.Tensor]:
        return {"master": self._parameter.detach(), "ema": self._ema, "averaged": self._averaged, **self._moments}

    def _serve(self) -> None:
        self._served.copy_(self._ema)  # to nearest, ties to even
