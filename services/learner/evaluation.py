"""How a version answers labelled rows and agrees with what people said, beside version 1. Knows a task; knows no journal.

The figures are scikit-learn's; the intervals are those of services/learner/intervals.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from liveloop.tasks import FeedbackExample, LabelledExample, Task
from liveloop.tasks.flat import as_bf16
from liveloop.v1.weights_pb2 import Layout
from services.learner.evaluator import is_right
from services.learner.intervals import Z_95, Estimate, Floats, clustered_share, groups, paired, paired_by_judge, share

_BATCH = 32
"""Texts in a forward pass, of about the same length."""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """How well one label is told from the others, each in [0, 1]."""

    label: str
    rows: int  # that have it
    precision: float  # of the rows answered with it, how many have it
    recall: float  # of the rows that have it, how many were answered with it
    f1: float  # their harmonic mean


@dataclass(frozen=True, slots=True)
class Report:
    """How one version answers labelled rows."""

    rows: int
    accuracy: Estimate
    macro_f1: float  # the mean of the labels' F1, however rare each is
    labels: tuple[LabelScores, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows by their label, columns by the answer


@dataclass(frozen=True, slots=True)
class Tested:
    """How a version and version 1 answer the same labelled rows."""

    version: Report
    first: Report
    gained: Estimate  # accuracy


@dataclass(frozen=True, slots=True)
class Judged:
    """How a version and version 1 agree with what people said."""

    judgements: int
    accuracy: Estimate  # share that agrees; with a down of one of several labels all other answers agree
    first_accuracy: Estimate  # version 1's
    gained: Estimate


class Answerer:
    """Answers texts with one version's bits."""

    def __init__(
        self, task: Task, layout: Layout, bits: np.ndarray, device: torch.device, progress: Callable[[int], object] = lambda _: None
    ) -> None:
        """`bits` is its served state, uint16, [layout.total]; `progress` is told after each batch how many texts were in it."""
        self._task, self._progress = task, progress
        self._model = task.new_model(layout, as_bf16(bits).to(device, torch.float32))
        self.labels = task.labels

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Of each label, [len(texts), K]."""
        encoded = self._task.encode(texts)
        found_NK = np.zeros((len(texts), len(self.labels)))
        by_length = sorted(range(len(texts)), key=lambda place: len(encoded[place].tokens))
        for at in range(0, len(texts), _BATCH):
            places = by_length[at : at + _BATCH]
            answers = self._task.answer(self._model, [encoded[place] for place in places])
            found_NK[places] = [answer.probabilities for answer in answers]
            self._progress(len(places))
        return found_NK

    def answer(self, rows: Sequence[LabelledExample | FeedbackExample]) -> list[int]:
        """The most probable label of each."""
        found: list[int] = self.probabilities([row.text for row in rows]).argmax(axis=1).tolist()
        return found


def tested(rows: Sequence[LabelledExample], ours: Answerer, first: Answerer) -> Tested | None:
    """A version beside version 1 on labelled rows; None without any."""
    if not rows:
        return None
    answered, before = ours.answer(rows), first.answer(rows)
    gained = paired(_right(rows, answered), _right(rows, before))
    return Tested(report(rows, answered, ours.labels), report(rows, before, ours.labels), gained)


def judged(rows: Sequence[FeedbackExample], judges: Sequence[bytes], ours: Answerer, first: Answerer) -> Judged | None:
    """The same on what people said, `judges` beside it; None where nobody said anything."""
    if not rows:
        return None
    version, before, judge_N = _right(rows, ours.answer(rows)), _right(rows, first.answer(rows)), groups(judges)
    accuracy, first_accuracy = (_share_by_judge(right, judge_N) for right in (version, before))
    return Judged(len(rows), accuracy, first_accuracy, paired_by_judge(version, before, judge_N))


def report(rows: Sequence[LabelledExample], answered: Sequence[int], labels: Sequence[str]) -> Report:
    """What the answers to `rows`, one or more, are worth; a label that is never answered has precision 0."""
    truth, numbers = [row.label for row in rows], range(len(labels))
    scores = precision_recall_fscore_support(truth, answered, labels=numbers, zero_division=0.0)
    found = tuple(
        LabelScores(label, int(count), float(precision), float(recall), float(f1))
        for label, precision, recall, f1, count in zip(labels, *scores, strict=True)
    )
    confusion = tuple(tuple(map(int, line)) for line in confusion_matrix(truth, answered, labels=numbers))
    macro = float(np.mean([one.f1 for one in found if one.rows]))
    return Report(len(rows), share(_right(rows, answered)), macro, found, confusion)


def _share_by_judge(right: Sequence[bool], judge_N: npt.NDArray[np.int64]) -> Estimate:
    found = clustered_share(np.array(right, dtype=np.float64), judge_N)
    return Estimate(found.value, *found.interval(Z_95))


def _right(rows: Sequence[LabelledExample | FeedbackExample], answered: Sequence[int]) -> list[bool]:
    return [is_right(row, answer) for row, answer in zip(rows, answered, strict=True)]
