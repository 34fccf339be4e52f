"""The learner's loop: read, join, step, guard, journal, publish; evaluate and settle when nothing waits. Builds nothing itself."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from liveloop import telemetry
from liveloop.errors import HeadConflict, Misconfigured, Unavailable, WeightsRefused
from liveloop.events import EventLog
from liveloop.weights.mirror import Mirror
from liveloop.weights.publisher import Publisher, Staged
from services.learner.evaluator import Evaluation, Evaluator
from services.learner.guard import Decision, Gate, Guard
from services.learner.joiner import Joiner
from services.learner.journal import Journal, LeaseLost, Row
from services.learner.micro_batch import MicroBatches
from services.learner.tensors import TensorCache
from services.learner.trainer import Recipe, Trainer

SETTLES = 3
"""Settle rows after the last step: they bring a lone thumb from 10 % to 89 % of its step (EMA decay 0.9)."""
_REFUSALS = 3
"""Refused steps in a row after which the blessed weights come back."""
_EVALUATION_SHARE = 0.25
"""Of the learner's time, while feedback waits."""
_SAVE_ROWS, _SAVE_SECONDS = 64, 60.0
"""A restart redoes at most this much."""
_HELD_OUT_ROWS = 500
"""Newest held-out feedbacks in a full evaluation: a standard error of 2 points."""
_IDLE, _CHORES = 0.05, 10.0
"""Seconds to wait for events when nothing is to do, and between rounds of housekeeping."""

_log = telemetry.logger(part="loop")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the loop may go."""

    step_interval: float  # seconds from one row's start to the next, at the least
    micro_batch_limit: int  # feedbacks in one step at the most
    history: float  # seconds for which examples are kept


@dataclass(slots=True)
class Parts:
    """What the loop drives; built by `__main__`."""

    log: EventLog
    journal: Journal
    joiner: Joiner
    batches: MicroBatches
    trainer: Trainer
    evaluator: Evaluator
    publisher: Publisher
    tensors: TensorCache
    mirror: Mirror | None
    guard: Guard = field(default_factory=Guard)
    gate: Gate = field(default_factory=Gate)


class LearnerLoop:
    """Owns the order in which things happen. `run` returns after `stop`, or raises LeaseLost."""

    def __init__(self, parts: Parts, recipe: Recipe, pace: Pace) -> None:
        self._parts = parts
        self._recipe = recipe
        self._pace = pace
        self._stopping = threading.Event()
        self._rng = random.Random(recipe.seed)
        self._settles = 0
        self._refused: list[tuple[int, ...]] = []
        self._last_start = 0.0
        self._evaluated = 0  # the newest version that was fully evaluated
        self._credit = 0.0  # seconds the evaluation may take while feedback waits
        self._saved_row, self._saved_at = 0, time.monotonic()
        self._chores_at = 0.0

    def stop(self) -> None:
        """Make `run` return after the turn under way."""
        self._stopping.set()

    def run(self) -> None:
        """Turn until stopped.

        Raises:
            LeaseLost: another process took over.
            HeadConflict: a store knows a newer epoch than this learner's.
            Misconfigured: the store to mirror to holds another model.
        """
        self._publish_if_behind()
        while not self._stopping.is_set():
            try:
                self._turn()
            except LeaseLost:
                raise
            except Unavailable as error:
                _log.warning("waiting for what cannot be reached", reason=error.reason)
                self._stopping.wait(1.0)
                self._parts.journal.renew()

    def save(self) -> None:
        """Save the tensors and wait for it: on exit."""
        self._save(wait=True)

    def _turn(self) -> None:
        self._parts.journal.renew()
        self._read()
        due = time.monotonic() - self._last_start >= self._pace.step_interval
        waiting = self._parts.batches.waiting()
        telemetry.gauge("learner_lag_events").set(waiting)
        if due and waiting:
            self._timed_step()
        elif due and self._settles:
            self._settle()
        elif not waiting or self._credit > 0.0:
            self._evaluate()
        self._chores()

    def _read(self) -> None:
        parts = self._parts
        busy = self._settles or parts.batches.waiting() or parts.evaluator.running or self._unevaluated
        page = parts.log.read(parts.journal.positions(), limit=1000, timeout=0.0 if busy else _IDLE)
        if page.records:
            parts.journal.ingest(page, parts.joiner)

    # Rows

    def _timed_step(self) -> None:
        started = time.monotonic()
        self._last_start = started
        self._step()
        self._credit = min(1.0, self._credit + (time.monotonic() - started) * _EVALUATION_SHARE / (1 - _EVALUATION_SHARE))

    def _step(self) -> None:
        parts, recipe = self._parts, self._recipe
        batch = parts.batches.choose(nominal=recipe.micro_batch, limit=self._pace.micro_batch_limit, rng=self._rng)
        report = parts.trainer.compute(batch, recipe, parts.journal.next_row())
        refusal = parts.guard.refusal(report)
        if refusal:
            self._refuse(batch.new, refusal)
            return
        parts.trainer.apply(report, recipe)
        try:
            staged = parts.publisher.stage(parts.trainer.bits)
        except WeightsRefused as error:
            parts.journal.quarantine(batch.new, f"its step was undone: {error.reason}")
            self._reset(error.reason)
            return
        losses = {"task_loss": report.task_loss, "feedback_loss": report.feedback_loss, "gradient_norm": report.gradient_norm}
        self._publish(parts.journal.train(batch, recipe, staged.digest, losses=losses), staged)
        self._settles, self._refused = SETTLES, []
        telemetry.counter("learner_steps_total").inc()
        telemetry.gauge("learner_last_step_timestamp_seconds").set(time.time())
        telemetry.gauge("learner_loss").labels("task").set(report.task_loss)
        telemetry.gauge("learner_loss").labels("feedback").set(report.feedback_loss)

    def _settle(self) -> None:
        self._last_start = time.monotonic()
        self._settles -= 1
        parts = self._parts
        parts.trainer.settle()
        staged = parts.publisher.stage(parts.trainer.bits)
        self._publish(parts.journal.change("settle", self._recipe, {}, staged.digest), staged)

    def _refuse(self, feedback: Sequence[int], why: str) -> None:
        """Nothing was changed, so nothing is undone; after three in a row the weights themselves are suspected."""
        _log.warning("a step was refused", reason=why, feedback=len(feedback))
        telemetry.counter("guard_decisions_total").labels("refuse").inc()
        self._parts.journal.quarantine(feedback, f"its step was refused: {why}")
        self._parts.journal.note("refuse", self._recipe, why=why, feedback=list(feedback))
        self._refused.append(tuple(feedback))
        if len(self._refused) >= _REFUSALS:
            given_back = [one for refused in self._refused for one in refused]
            self._reset(f"{_REFUSALS} steps in a row were refused; the last: {why}")
            self._parts.journal.give_back(given_back)

    def _reset(self, why: str) -> None:
        """Serve the blessed version's bytes again, as a new version."""
        parts = self._parts
        blessed = parts.publisher.head.blessed
        _log.warning("back to the blessed version", version=blessed, reason=why)
        telemetry.counter("guard_decisions_total").labels("reset").inc()
        parts.trainer.reset(parts.publisher.load(blessed, parts.journal.manifest(blessed)))
        staged = parts.publisher.stage(parts.trainer.bits)
        self._publish(parts.journal.reset(blessed, self._recipe, staged.digest, why), staged)
        self._settles, self._refused = 0, []
        self._save(wait=False)

    # Publishing

    def _publish(self, row: Row, staged: Staged) -> None:
        if self._parts.gate.held:
            return
        assert row.version is not None
        parts = self._parts
        included = parts.journal.included(parts.publisher.head.current, row.version)
        done = parts.publisher.publish(staged, version=row.version, step=row.row, included=included, created_at=row.created_at)
        if parts.mirror is not None:
            parts.mirror.notify()
        parts.journal.published(done.version, parent=done.parent, manifest=done.manifest, patch_bytes=done.patch_bytes)
        telemetry.counter("versions_published_total").labels(row.kind).inc()
        telemetry.histogram("patch_bytes").observe(done.patch_bytes)
        telemetry.gauge("model_version").set(done.version)
        telemetry.gauge("model_version_timestamp_seconds").set(row.created_at)

    def _publish_if_behind(self) -> None:
        """Finish the publish that a crash, a full disk or the gate left undone."""
        row = self._parts.journal.last()
        if row is not None and row.version is not None and row.version > self._parts.publisher.head.current:
            self._publish(row, self._parts.publisher.stage(self._parts.trainer.bits))

    # Evaluation

    @property
    def _unevaluated(self) -> bool:
        return self._newest_version() != self._evaluated

    def _newest_version(self) -> int:
        row = self._parts.journal.last()
        return row.version if row is not None and row.version is not None else 0

    def _evaluate(self) -> None:
        """One slice. After a start the blessed version comes first: it is what later ones are compared with."""
        started = time.monotonic()
        parts = self._parts
        if not parts.evaluator.running:
            if parts.gate.blessed is None:
                blessed = parts.publisher.head.blessed
                bits = parts.publisher.load(blessed, parts.journal.manifest(blessed))
                parts.evaluator.begin(blessed, bits, parts.batches.held_out(_HELD_OUT_ROWS))
            elif self._unevaluated:
                parts.evaluator.begin(self._newest_version(), parts.trainer.bits, parts.batches.held_out(_HELD_OUT_ROWS))
            else:
                return
        done = parts.evaluator.slice()
        if done is not None:
            self._decide(done)
        self._credit -= time.monotonic() - started

    def _decide(self, evaluation: Evaluation) -> None:
        parts = self._parts
        self._evaluated = evaluation.version
        for split in ("task", "feedback"):
            accuracy = evaluation.accuracy(split)
            if accuracy is not None:
                telemetry.gauge("evaluation_score").labels("accuracy", split).set(accuracy)
        drop = parts.gate.drop(evaluation.right)
        was_held = parts.gate.held
        decision = parts.gate.judge(evaluation.right)
        blesses = decision is Decision.BLESS and bool(evaluation.right) and parts.publisher.head.blessed <= evaluation.version
        parts.journal.evaluated(evaluation.version, accuracy=evaluation.accuracy("task"), blessed=blesses)
        telemetry.counter("guard_decisions_total").labels(decision.value).inc()
        if blesses and evaluation.version != parts.publisher.head.blessed:
            parts.publisher.bless(evaluation.version)
            if parts.mirror is not None:
                parts.mirror.notify()
        if parts.gate.held != was_held:
            _log.warning(
                "publishing stops" if parts.gate.held else "publishing goes on",
                version=evaluation.version,
                points_lost=round(100 * drop, 1),
            )
            parts.journal.note(decision.value, self._recipe, version=evaluation.version, drop=drop)
            self._publish_if_behind()

    # Housekeeping

    def _chores(self) -> None:
        newest = self._parts.journal.next_row() - 1
        if newest - self._saved_row >= _SAVE_ROWS or (newest > self._saved_row and time.monotonic() - self._saved_at > _SAVE_SECONDS):
            self._save(wait=False)
        if time.monotonic() - self._chores_at < _CHORES:
            return
        self._chores_at = time.monotonic()
        parts = self._parts
        if parts.mirror is not None and isinstance(parts.mirror.failure, (Misconfigured, HeadConflict)):
            raise parts.mirror.failure
        parts.journal.expire(parts.joiner, parts.log.partitions, self._pace.history)
        parts.log.release(parts.journal.positions())
        parts.publisher.collect(parts.journal.kept(10, time.time() - self._pace.history))
        self._publish_if_behind()

    def _save(self, *, wait: bool) -> None:
        row = self._parts.journal.last()
        if row is not None:
            self._parts.tensors.save(row.row, self._parts.trainer.tensors(), wait=wait)
        self._saved_row, self._saved_at = self._parts.journal.next_row() - 1, time.monotonic()
