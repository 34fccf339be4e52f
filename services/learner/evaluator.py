"""How served bytes answer the rows that versions are judged by, a few rows at a time. Knows a task; knows no journal and no verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch
from blake3 import blake3

from liveloop.tasks import FeedbackExample, LabelledExample, Task
from liveloop.tasks.flat import as_bf16
from liveloop.v1.weights_pb2 import Layout
from services.learner.verdict import split_of

Rows = Mapping[str, LabelledExample | FeedbackExample]
"""By name, `split:...`: "task:17", "feedback:4711", or the name of a user's slice."""


class Evaluator:
    """A model of its own, so that training goes on beside it."""

    def __init__(self, task: Task, layout: Layout, labelled: Mapping[str, LabelledExample], device: torch.device) -> None:
        self._task = task
        self._labelled = labelled
        self._frozen = layout.frozen
        self._flat = torch.zeros(layout.total, device=device)
        self._model = task.new_model(layout, self._flat)
        self._loaded: np.ndarray | None = None

    def reset(self, bits: np.ndarray) -> None:
        """Take over a served state ([layout.total], uint16) for its frozen values."""
        self._flat.copy_(as_bf16(bits))
        self._loaded = None

    def trained(self, bits: np.ndarray) -> np.ndarray:
        """A copy of what is not frozen in a served state: all that `answer` needs."""
        return bits[self._frozen :].copy()

    def rows(self, held_out: Mapping[str, FeedbackExample]) -> Rows:
        """All rows, the splits taking turns and each in the order of its rows' hashes: any beginning is a fair sample, always the same."""
        rows: dict[str, LabelledExample | FeedbackExample] = {**self._labelled, **held_out}
        turns: Counter[str] = Counter()
        order: list[tuple[int, int, str]] = []
        for place, name in enumerate(sorted(rows, key=lambda name: blake3(name.encode()).digest())):
            order.append((turns[split_of(name)], place, name))
            turns[split_of(name)] += 1
        return {name: rows[name] for _, _, name in sorted(order)}

    def answer(self, trained: np.ndarray, rows: Rows) -> dict[str, bool]:
        """Which of a slice of `rows` the version with these `trained` bits answers right. At least one row."""
        if self._loaded is not trained:
            self._flat[self._frozen :].copy_(as_bf16(trained))
            self._loaded = trained
        answers = self._task.answer(self._model, self._task.encode([example.text for example in rows.values()]))
        return {name: is_right(example, answer.label) for (name, example), answer in zip(rows.items(), answers, strict=True)}


def is_right(example: LabelledExample | FeedbackExample, label: int) -> bool:
    """Whether an answer agrees with a row: with its label, or with what was said of an answer."""
    wrong_label = isinstance(example, FeedbackExample) and example.sign < 0
    return (label == example.label) is not wrong_label
