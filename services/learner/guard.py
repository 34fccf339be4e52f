"""The cheap checks before an optimiser step, and the gate on publishing. Pure: knows numbers, not where they come from."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

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


class Decision(Enum):
    """What a full evaluation leads to."""

    BLESS = "bless"  # as good as the blessed version
    WATCH = "watch"  # a little worse, or worse for the first time
    HOLD = "hold"  # clearly worse twice running: stop publishing, go on training
    RESUME = "resume"  # back within bounds: publish again


HOLD_DROP = 0.03
"""Accuracy below the blessed version's, in [0, 1], that stops publishing when two evaluations running show it."""
BLESS_DROP = 0.01
"""Accuracy below it that still blesses: less than what chance does to 500 rows."""


@dataclass(slots=True)
class Gate:
    """Compares each evaluation with the blessed version's, row by row on the rows that both have seen."""

    blessed: Mapping[str, bool] | None = None  # by row: did the blessed version answer it right?
    held: bool = False
    _drops: int = 0  # evaluations running beyond HOLD_DROP

    def judge(self, right: Mapping[str, bool]) -> Decision:
        """Decide on an evaluation. Without rows in common there is nothing to hold against it."""
        drop = self.drop(right)
        self._drops = self._drops + 1 if drop >= HOLD_DROP else 0
        if self._drops >= 2:
            self.held = True
            return Decision.HOLD
        if self.held and self._drops == 0:
            self.held = False
            return Decision.RESUME
        if self.held or drop >= BLESS_DROP:
            return Decision.WATCH
        self.blessed = right
        return Decision.BLESS

    def drop(self, right: Mapping[str, bool]) -> float:
        """How much less accurate than the blessed version, in [-1, 1], on the rows in common."""
        common = right.keys() & (self.blessed or {}).keys()
        if not common or self.blessed is None:
            return 0.0
        return sum(self.blessed[row] - right[row] for row in common) / len(common)
