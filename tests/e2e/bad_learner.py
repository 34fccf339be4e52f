"""A learner with a bug: one step flips the signs of the classifier's weights, and its cheap checks are built off. For the tests alone.

All else is the real learner's: it journals, signs and publishes what came of it. LIVELOOP_TEST_FLIP_AT says which step it is.
"""

from __future__ import annotations

import os
import sys

import torch

from liveloop.tasks import Task
from liveloop.v1.weights_pb2 import Layout
from services.learner import __main__ as learner
from services.learner import materials
from services.learner.guard import Guard
from services.learner.trainer import Recipe, StepReport, Trainer

FLIP_AT = "LIVELOOP_TEST_FLIP_AT"


class BadTrainer(Trainer):
    """Flips once."""

    def __init__(self, task: Task, layout: Layout, device: torch.device) -> None:
        super().__init__(task, layout, device)
        self._start = next(tensor.offset for tensor in layout.tensors if tensor.name == "classifier.weight") - layout.frozen
        self._steps = 0

    def apply(self, report: StepReport, recipe: Recipe, *, rate: float = 1.0) -> None:
        super().apply(report, recipe, rate=rate)
        self._steps += 1
        if self._steps == int(os.environ[FLIP_AT]):
            for weights in (self._parameter.data, self._ema):
                weights[self._start :].neg_()
            self._serve()


def main() -> int:
    """Run it."""
    materials.Trainer = BadTrainer  # type: ignore[misc]
    Guard.refusal = lambda *_: ""  # type: ignore[method-assign]
    return learner.main()


if __name__ == "__main__":
    sys.exit(main())
