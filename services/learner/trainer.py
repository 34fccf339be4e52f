"""Master weights, moments and EMA as flat buffers, and one optimiser step on them. Knows torch and a task; knows no log and no store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from blake3 import blake3

from liveloop.tasks import Objective, Task
from liveloop.tasks.flat import as_bf16
from liveloop.tasks.objectives import LOSSES
from liveloop.v1.weights_pb2 import Layout
from services.learner.experts import weighted
from services.learner.micro_batch import MicroBatch

_MOMENTUM = 0.9
"""Of both optimisers: the first moment's memory. A journal may change from one to the other: the moment means the same to both."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything beside the micro-batches that decides what a step computes. Its digest stands in every journal row."""

    objective: str  # the feedback loss, a name in liveloop.tasks.objectives.LOSSES
    optimizer: str  # adamw or sgd
    learning_rate: float
    feedback_weight: float  # lambda in L_task + lambda * L_FB
    kl_weight: float  # of KL(reference || model)
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
    def has_reference(self) -> bool:
        """Its steps compare with the weights that the journal begins with."""
        return LOSSES[self.objective].reference or self.kl_weight > 0

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
    kl: float | None = None  # from the reference; none where nothing is asked of it

    @property
    def components(self) -> dict[str, float]:
        """The parts of what was minimised, before their weights, by name."""
        return {"task": self.task_loss, "feedback": self.feedback_loss, **({} if self.kl is None else {"kl": self.kl})}


class Trainer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101; no weight decay) on one flat parameter, or SGD along AdamW's first moment.

    From fresh moments AdamW moves every weight by the whole learning rate, whatever the gradient: the first steps are shorter.

    Served is an exponential moving average of the master, cast to bf16: it takes the swings out of single steps. Its memory grows with the
    steps n since it last settled, decay = min(ema_decay, (1 + n) / (10 + n)) as TensorFlow's ExponentialMovingAverage has it: a lone thumb
    is served nearly whole at once, a long stream as the mean of many steps.
    """

    def __init__(self, task: Task, layout: Layout, device: torch.device) -> None:
        self._task, self._layout = task, layout
        self._frozen = layout.frozen
        trainable = layout.total - layout.frozen
        self._master = torch.zeros(layout.total, device=device)
        self._gradients = torch.zeros(trainable, device=device)
        self._ema = torch.zeros(trainable, device=device)
        self._model = task.new_model(layout, self._master, self._gradients)
        self._parameter = torch.nn.Parameter(self._master[self._frozen :])
        self._parameter.grad = self._gradients
        self._adamw = torch.optim.AdamW([self._parameter], lr=0.0, weight_decay=0.0, betas=(_MOMENTUM, 0.999), fused=True)
        self._moments = {
            "exp_avg": torch.zeros_like(self._ema),
            "exp_avg_sq": torch.zeros_like(self._ema),
            "step": torch.zeros((), device=device),
        }
        self._averaged = torch.zeros(())  # steps since the average last settled
        self._adamw.state[self._parameter] = self._moments
        self._baselines = torch.zeros(3, device=device)  # of the feedback loss
        self._next_baselines = self._baselines  # after the step that was computed last
        self._reference: torch.nn.Module | None = None
        self._first: Callable[[], np.ndarray] | None = None
        self.bits = np.zeros(layout.total, dtype=np.uint16)
        """The served state, [layout.total]: kept up to date by every method that changes it."""
        self._served = torch.from_numpy(self.bits[self._frozen :]).view(torch.bfloat16)  # the same memory

    def refer_to(self, first: Callable[[], np.ndarray]) -> None:
        """Where the reference's served bits come from ([layout.total], uint16): asked once, by the first step that compares with them."""
        self._first, self._reference = first, None

    def compute(self, batch: MicroBatch, recipe: Recipe, row: int) -> StepReport:
        """Gradients of `L_task + feedback_weight * L_FB + kl_weight * KL` on one micro-batch; `apply` takes the step.

        Raises what reading the reference does.
        """
        torch.manual_seed(recipe.seed * 1_000_003 + row)
        self._gradients.zero_()
        feedback = weighted(batch, nominal=recipe.micro_batch, weight=recipe.expert_weight, share=recipe.expert_share)
        reference = self._referred() if recipe.has_reference else None
        objective = Objective(recipe.objective, recipe.micro_batch, self._baselines, reference, recipe.kl_weight > 0)
        losses = self._task.losses(self._model, batch.task_examples, feedback, objective)
        (losses.task + recipe.feedback_weight * losses.feedback + recipe.kl_weight * losses.kl).backward()  # type: ignore[no-untyped-call]
        self._next_baselines = losses.baselines
        kl = losses.kl.item() if objective.measures_kl else None
        return StepReport(losses.task.item(), losses.feedback.item(), self._gradients.norm().item(), kl)

    def apply(self, report: StepReport, recipe: Recipe, *, rate: float = 1.0) -> None:
        """Clip, step with `rate` times the recipe's learning rate, and move the average."""
        if report.gradient_norm > recipe.clip_norm:
            self._gradients.mul_(recipe.clip_norm / report.gradient_norm)
        warmth = min(1.0, (self._moments["step"].item() + 1) / max(1, recipe.warm_up))
        self._step(recipe.optimizer, recipe.learning_rate * rate * warmth)
        self._baselines.copy_(self._next_baselines)
        steps = self._averaged.item()
        self._ema.lerp_(self._parameter.detach(), 1.0 - min(recipe.ema_decay, (1 + steps) / (10 + steps)))
        self._averaged += 1
        self._serve()

    def settle(self) -> None:
        """Let average and master meet half-way; no gradient.

        The average of a long stream answers better than where its last step happened to end, and lacks most of what came last.
        """
        self._ema.lerp_(self._parameter.detach(), 0.5)
        self._parameter.detach().copy_(self._ema)
        self._averaged.zero_()
        self._serve()

    def reset(self, bits: np.ndarray) -> None:
        """Master and average become these served bits ([layout.total], uint16), the moments zero."""
        self._master.copy_(as_bf16(bits))
        self._ema.copy_(self._master[self._frozen :])
        for tensor in (*self._moments.values(), self._averaged, self._baselines):
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

    @torch.no_grad()
    def _step(self, optimizer: str, learning_rate: float) -> None:
        if optimizer == "adamw":
            self._adamw.param_groups[0]["lr"] = learning_rate
            self._adamw.step()
            return
        self._moments["exp_avg"].lerp_(self._gradients, 1 - _MOMENTUM)
        self._moments["step"] += 1
        self._parameter.add_(self._moments["exp_avg"], alpha=-learning_rate)

    def _referred(self) -> torch.nn.Module:
        """The reference, which shares the frozen values."""
        if self._reference is None:
            assert self._first is not None
            trained = as_bf16(self._first()[self._frozen :]).to(self._master.device, torch.float32)
            self._reference = self._task.new_model(self._layout, self._master, trained=trained)
        return self._reference

    def _state(self) -> dict[str, torch.Tensor]:
        averages = {"ema": self._ema, "averaged": self._averaged, "baselines": self._baselines}
        return {"master": self._parameter.detach(), **averages, **self._moments}

    def _serve(self) -> None:
        self._served.copy_(self._ema)  # to nearest, ties to even
