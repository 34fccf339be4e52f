"""The full evaluation beside training: which version is next, what its result leads to. Knows evaluator, gate, journal and publication."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from liveloop import telemetry
from liveloop.errors import WeightsRefused
from services.learner.evaluator import Evaluation, Evaluator
from services.learner.guard import Decision, Gate
from services.learner.journal import Journal
from services.learner.micro_batch import MicroBatches
from services.learner.publication import Publication
from services.learner.trainer import Recipe, Trainer

_SHARE = 0.25
"""Of the learner's time, while feedback waits."""
_CREDIT_LIMIT = 1.0
"""Seconds of evaluation that busy times can save up."""
_HELD_OUT_ROWS = 500
"""Newest held-out feedbacks in an evaluation: a standard error of 2 points."""

_log = telemetry.logger(part="examiner")


@dataclass(slots=True)
class Examiner:
    """Evaluates the newest version, slice by slice; blesses it, or closes and opens the gate on publishing."""

    evaluator: Evaluator
    gate: Gate
    journal: Journal
    batches: MicroBatches
    trainer: Trainer
    publication: Publication
    recipe: Recipe
    _evaluated: int = 0  # the newest version that was fully evaluated
    _credit: float = 0.0  # seconds it may take while feedback waits

    def earn(self, seconds: float) -> None:
        """A step took so long: the evaluation may take its share."""
        self._credit = min(_CREDIT_LIMIT, self._credit + seconds * _SHARE / (1 - _SHARE))

    @property
    def has_credit(self) -> bool:
        """A slice may be taken although feedback waits."""
        return self._credit > 0.0

    @property
    def has_work(self) -> bool:
        """An evaluation is under way, or the newest version has not been evaluated."""
        return self.evaluator.running or self.gate.blessed is None or self._newest() != self._evaluated

    def turn(self) -> None:
        """One slice. After a start the blessed version comes first: it is what later ones are compared with."""
        started = time.monotonic()
        if not self.evaluator.running:
            self._begin()
        if (done := self.evaluator.slice()) is not None:
            self._decide(done)
        self._credit -= time.monotonic() - started

    def _begin(self) -> None:
        held_out = self.batches.held_out(_HELD_OUT_ROWS)
        if self.gate.blessed is None:
            blessed = self.publication.blessed
            self.evaluator.begin(blessed, self._blessed_bits(blessed), held_out)
        else:
            self.evaluator.begin(self._newest(), self.trainer.bits, held_out)

    def _blessed_bits(self, version: int) -> np.ndarray:
        """The bits to compare with; those of the newest version where the blessed ones cannot be read any more."""
        try:
            return self.publication.load(version)
        except WeightsRefused as error:
            _log.error("the blessed version cannot be read; comparing with the newest one", version=version, reason=error.reason)
            return self.trainer.bits

    def _decide(self, evaluation: Evaluation) -> None:
        if self.gate.blessed is None:  # the blessed version itself: what later ones are compared with
            self.gate.blessed = evaluation.right
            return
        self._evaluated = evaluation.version
        for split in ("task", "feedback"):
            accuracy = evaluation.accuracy(split)
            if accuracy is not None:
                telemetry.gauge("evaluation_score").labels("accuracy", split).set(accuracy)
        was_held, drop = self.gate.held, self.gate.drop(evaluation.right)
        decision = self.gate.judge(evaluation.right)
        telemetry.counter("guard_decisions_total").labels(decision.value).inc()
        blesses = decision is Decision.BLESS and bool(evaluation.right) and self.publication.bless(evaluation.version)
        self.journal.evaluated(evaluation.version, accuracy=evaluation.accuracy("task"), blessed=blesses)
        if self.gate.held != was_held:
            message = "publishing stops" if self.gate.held else "publishing goes on"
            _log.warning(message, version=evaluation.version, points_lost=round(100 * drop, 1))
            self.journal.note(decision.value, self.recipe, version=evaluation.version, drop=drop)
            self.publication.catch_up(self.trainer.bits)

    def _newest(self) -> int:
        row = self.journal.last()
        return row.version if row is not None and row.version is not None else 0
