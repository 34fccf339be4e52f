"""From settings and a model to the recipe of its steps: what is left open is chosen here. Knows no tensor and no journal."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from liveloop.v1.weights_pb2 import ModelBundle
from services.learner.scope import SCOPE_FILE, Scope, parse
from services.learner.trainer import Recipe

_WHOLE = 1e-4
"""AdamW's learning rate for all of a model, measured on validation texts (docs/learning.md)."""
_SGD = 0.5
"""SGD's learning rate: with gradients clipped to length 1 its steps on all of MiniLM are about as long as AdamW's. No more was measured."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A feedback loss, and why it."""

    loss: str
    why: str


def choose_objective(asked: str, labels: int) -> Choice:
    """The feedback loss for so many labels. Raises Misconfigured for one that cannot be had.

    Auto is complementary for every number of labels and every serving policy: it is the likelihood of what people said, given the label
    they were shown, so the propensity drops out of it. `liveloop bench learning --full` runs it beside the others.
    """
    if asked == "cross_entropy" and labels != 2:
        raise Misconfigured(
            f"objective = cross_entropy needs two labels, and the model has {labels}: a thumb down does not say which of the others is "
            "right; complementary learns from it all the same"
        )
    if asked != "auto":
        return Choice(asked, "the setting objective says so")
    if labels == 2:
        return Choice("complementary", "of two labels a thumb down names the other one: the same as cross_entropy")
    return Choice("complementary", f"a thumb down on one of {labels} labels says what is wrong, whatever the serving policy")


def default_learning_rate(optimizer: str, scope: Scope) -> float:
    """The fewer weights move, the further each may: AdamW's step moves every one of them by the learning rate."""
    if optimizer == "sgd":
        return _SGD
    if scope.kind in ("head", "lora"):
        return 1e-3
    if scope.kind == "last":
        return max(3e-4 / scope.number, _WHOLE)
    return _WHOLE


def scope_of(bundle: ModelBundle) -> Scope:
    """What of the model is trained; a bundle of before there were scopes says nothing."""
    return parse(bundle.files.get(SCOPE_FILE, b"").decode())


def learning_rate(settings: Settings, bundle: ModelBundle) -> float:
    """As it is set, else by what is trained and how."""
    return settings.learning_rate or default_learning_rate(settings.optimizer, scope_of(bundle))


def new_recipe(settings: Settings, bundle: ModelBundle, device: torch.device, task_data: str) -> Recipe:
    """How this model learns here; `task_data` is the digest of its labelled rows. Raises Misconfigured."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return Recipe(
        objective=choose_objective(settings.objective, len(bundle.labels)).loss,
        optimizer=settings.optimizer,
        learning_rate=learning_rate(settings, bundle),
        feedback_weight=settings.feedback_weight,
        kl_weight=settings.kl_weight,
        warm_up=settings.warm_up,
        ema_decay=settings.ema_decay,
        clip_norm=settings.clip_norm,
        micro_batch=settings.micro_batch,
        expert_weight=settings.expert_weight,
        expert_share=settings.expert_share,
        seed=settings.seed,
        task_data=task_data,
        threads=settings.learner_threads or os.cpu_count() or 1,
        device=f"{device} {processor}",
        torch=torch.__version__,
    )


def _processor() -> str:
    """The processor's model, on which the last bits of a sum depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
