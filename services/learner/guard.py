"""The cheap checks before an optimiser step. Pure: knows numbers, not where they come from."""

from __future__ import annotations

import math
import statistics
from collections import deque

from services.learner.trainer import StepReport

_HISTORY = 64
"""Steps whose task loss the median is taken over: about 15 seconds at full speed."""
_SETTLED = 16
"""Steps after which that median is worth comparing with."""
_LOSS_FACTOR, _LOSS_SLACK = 4.0, 2.0
"""A task loss over 4 x median + 2 nats is no micro-batch of bad luck: 2 nats on average is p = 0.14 for every right label."""
_NORM_LIMIT = 1_000.0
"""Gradients are clipped to 1; one a thousand times as long is an overflow in the making."""


class Guard:
    """Says why a step must not be taken. A refused step has changed nothing, so there is nothing to undo."""

    def __init__(self) -> None:
        self._task_losses: deque[float] = deque(maxlen=_HISTORY)

    def refusal(self, report: StepReport) -> str:
        """One sentence why this step is refused, or nothing; remembers the task loss of a step that passes."""
        for name, value in (
            ("task loss", report.task_loss),
            ("feedback loss", report.feedback_loss),
            ("gradient norm", report.gradient_norm),
        ):
            if not math.isfinite(value):
                return f"the {name} is not finite"
        if report.gradient_norm > _NORM_LIMIT:
            return f"the gradient norm is {report.gradient_norm:.0f}"
        if len(self._task_losses) >= _SETTLED:
            median = statistics.median(self._task_losses)
            if report.task_loss > _LOSS_FACTOR * median + _LOSS_SLACK:
                return f"the task loss is {report.task_loss:.2f}, its running median {median:.2f}"
        self._task_losses.append(report.task_loss)
        return ""
