"""The full evaluation of served bytes, in slices short enough to fit between two steps. Knows a task; knows no journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from liveloop.tasks import FeedbackExample, LabelledExample, Task
from liveloop.tasks.flat import widen
from liveloop.v1.weights_pb2 import Layout

SLICE = 16
"""Rows in one slice: about 0.1 s of MiniLM on two cores, the most that a thumb waits for it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How one version did."""

    version: int
    right: Mapping[str, bool]  # by the row's name

    def accuracy(self, split: str) -> float | None:
        """Share of right answers in [0, 1] among the rows named `split:...`; None where there are none."""
        found = [right for name, right in self.right.items() if name.startswith(f"{split}:")]
        return sum(found) / len(found) if found else None


@dataclass(slots=True)
class _Running:
    version: int
    rows: list[tuple[str, LabelledExample | FeedbackExample]]
    right: dict[str, bool] = field(default_factory=dict)


class Evaluator:
    """Evaluates one version at a time on a model of its own, so that training goes on beside it."""

    def __init__(self, task: Task, layout: Layout, validation: Mapping[str, LabelledExample], device: torch.device) -> None:
        self._task = task
        self._validation = validation
        self._flat = torch.zeros(layout.total, device=device)
        self._model = task.new_model(layout, self._flat)
        self._running: _Running | None = None

    @property
    def running(self) -> bool:
        """An evaluation has begun and is not done."""
        return self._running is not None

    def begin(self, version: int, bits: np.ndarray, held_out: Mapping[str, FeedbackExample]) -> None:
        """Start on the served state `bits` ([layout.total], uint16) of `version`: task validation rows and held-out feedback."""
        self._flat.copy_(widen(bits))
        rows: list[tuple[str, LabelledExample | FeedbackExample]] = [*self._validation.items(), *held_out.items()]
        self._running = _Running(version, sorted(rows, key=lambda row: len(row[1].text)))

    def slice(self) -> Evaluation | None:
        """Answer the next rows; the result once all are answered."""
        assert self._running is not None
        start = len(self._running.right)
        rows = self._running.rows[start : start + SLICE]
        if rows:
            answers = self._task.answer(self._model, self._task.encode([example.text for _, example in rows]))
            for (name, example), answer in zip(rows, answers, strict=True):
                self._running.right[name] = _is_right(example, answer.label)
        if len(self._running.right) < len(self._running.rows):
            return None
        done, self._running = self._running, None
        return Evaluation(done.version, done.right)


def _is_right(example: LabelledExample | FeedbackExample, label: int) -> bool:
    wrong_label = isinstance(example, FeedbackExample) and example.sign < 0
    return (label == example.label) is not wrong_label
