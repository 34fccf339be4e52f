"""The learner's loop: read, join, step, guard, journal, publish; evaluate and settle when nothing waits. Builds nothing itself."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from liveloop import crash, telemetry, tracing
from liveloop.errors import NotNow, Unavailable, WeightsRefused
from services.learner.bursts import Burst
from services.learner.consolidation import Consolidation
from services.learner.forget import Forgetting
from services.learner.housekeeping import Housekeeping
from services.learner.journal import By
from services.learner.micro_batch import MicroBatch, Trace
from services.learner.operator import Operator
from services.learner.pacemaker import Pacemaker
from services.learner.parts import Parts
from services.learner.promotion import Promotion
from services.learner.reader import Reader
from services.learner.rollback import Rollback
from services.learner.trainer import Recipe, StepReport

_REFUSALS = 3
"""Refused steps in a row after which the blessed weights come back."""
_IDLE = 0.05
"""Seconds to wait for events when nothing is to do."""

_log = telemetry.logger(part="loop")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the loop may go."""

    step_interval: float  # seconds from one row's start to the next, at the least
    micro_batch_limit: int  # feedbacks in one step at the most
    history: float  # seconds for which examples are kept
    consolidate_after: float  # seconds without new feedback after which stored feedback is consolidated


class LearnerLoop:
    """Owns the order in which things happen. `run` returns after `stop`."""

    def __init__(self, parts: Parts, recipe: Recipe, pace: Pace) -> None:
        self._parts = parts
        self._recipe = recipe
        self._pace = pace
        self._reader = Reader(parts.log, parts.journal, parts.joiner)
        self._rollback = Rollback(parts, recipe, self._begin_anew)
        forgetting = Forgetting(parts, recipe, self.save, self._go_on)
        self._operator = Operator(parts.journal, parts.publication, recipe, self._rollback.order, forgetting, self._reader)
        self._promotion = Promotion(parts.journal, parts.publication, self._promote)
        self._consolidation = Consolidation(parts.journal.db, parts.batches, pace.consolidate_after)
        self._pacemaker = Pacemaker(parts.journal, recipe)
        self._housekeeping = Housekeeping(parts, pace.history)
        self._stopping = threading.Event()
        self._rng = random.Random(recipe.seed)
        self._unsettled = False
        self._refused: list[tuple[int, ...]] = []
        self._last_start = 0.0

    @property
    def is_quiet(self) -> bool:
        """Whatever was read has been learnt, settled, evaluated and consolidated: nothing is to do before more comes, or time passes."""
        to_do = self._has_rows_to_make(self._waiting()) or self._parts.examiner.has_work or self._consolidation.is_due
        return not to_do

    def stop(self) -> None:
        """Make `run` return after the turn under way."""
        self._stopping.set()

    def run(self) -> None:
        """Turn until stopped.

        Raises:
            LeaseLost: another process took over.
            HeadConflict: a store knows a newer epoch than this learner's.
            Misconfigured: the store to mirror to holds another model, or the journal cannot be written.
        """
        with self._parts.orders.accepting():
            while not self._stopping.is_set():
                try:
                    self.turn()
                except Unavailable as error:
                    _log.warning("waiting for what cannot be reached", reason=error.reason)
                    self._stopping.wait(1.0)
                    self._parts.journal.renew()

    def save(self) -> None:
        """Save the tensors and wait for it: on exit."""
        self._housekeeping.save(wait=True)

    def turn(self) -> None:
        """One turn: what is ordered, read what has come, then a step, a settling or a slice of an evaluation."""
        parts = self._parts
        parts.journal.renew()
        if parts.orders.carry_out(self._operator):
            parts.examiner.begin_again()
            self._housekeeping.hurry()
        parts.publication.catch_up(parts.trainer.bits)
        self._read()
        waiting = self._waiting()
        due = self._seconds_until_due() <= 0.0 and not parts.journal.is_paused()
        if parts.examiner.has_work and parts.examiner.has_credit:  # also before a step that is due: else there would always be one
            self._examine()
        elif due and waiting:
            self._step()
        elif due and self._consolidation.is_under_way:
            self._consolidate()
        elif due and self._unsettled:
            self._settle()
        elif self._may_examine(waiting):
            self._examine()
        elif due and self._consolidation.is_due:  # from a state that is settled and evaluated
            self._consolidation.begin(self._recipe.seed + parts.journal.next_row(), micro_batch=self._recipe.micro_batch)
        if why := self._promotion.turn():
            self._rollback.take_back(parts.publication.blessed, why)
        self._housekeeping.turn()

    def _waiting(self) -> int:
        """Feedbacks to learn from now: none while training is paused."""
        waiting, paused = self._parts.batches.waiting(), self._parts.journal.is_paused()
        telemetry.gauge("learner_lag_events").set(waiting)
        telemetry.gauge("learner_paused").set(paused)
        return 0 if paused else waiting

    def _read(self) -> None:
        waiting = self._waiting()
        idle = min(_IDLE, max(0.0, self._seconds_until_due())) if self._has_rows_to_make(waiting) else _IDLE
        self._reader.read(0.0 if self._may_examine(waiting) else idle, note_end=self._housekeeping.is_due)

    def _has_rows_to_make(self, waiting: int) -> bool:
        return bool(waiting or self._unsettled or self._consolidation.is_under_way)

    def _seconds_until_due(self) -> float:
        return self._last_start + self._pace.step_interval - time.monotonic()

    def _may_examine(self, waiting: int) -> bool:
        examiner = self._parts.examiner
        idle = self._parts.journal.is_paused() or not self._has_rows_to_make(waiting)
        return examiner.has_work and (idle or examiner.has_credit)

    def _examine(self) -> None:
        if (verdict := self._parts.examiner.turn()) is not None:
            self._rollback.take_back(verdict.to, verdict.why)

    # Rows

    def _step(self) -> None:
        parts, recipe = self._parts, self._recipe
        self._last_start = time.monotonic()
        if parts.bursts and (burst := parts.bursts.waiting(self._pace.micro_batch_limit)):
            self._set_aside(burst)
        batch = parts.batches.choose(nominal=recipe.micro_batch, limit=self._pace.micro_batch_limit, rng=self._rng)
        if not batch.new:
            return
        self._consolidation.learnt()
        with _traced(parts.batches.traces(batch.new)):
            self._learn(batch)

    def _consolidate(self) -> None:
        self._last_start = time.monotonic()
        batch, rate = self._consolidation.next(micro_batch=self._recipe.micro_batch)
        if batch.replayed:
            self._learn(batch, rate, kind="consolidate")

    def _learn(self, batch: MicroBatch, share: float = 1.0, *, kind: str = "train") -> None:
        """One step with `share` of what the pace leaves of the learning rate."""
        parts, recipe = self._parts, self._recipe
        self._pacemaker.look()
        rate = share * self._pacemaker.rate
        report = parts.trainer.compute(batch, recipe, parts.journal.next_row())
        crash.point("after-compute")
        if refusal := parts.guard.refusal(report):
            self._refuse(batch, refusal)
            return
        parts.trainer.apply(report, recipe, rate=rate)
        try:
            staged = parts.publication.stage(parts.trainer.bits)
        except WeightsRefused as error:
            parts.journal.quarantine(batch.new, f"its step was undone: {error.reason}")
            self._rollback.take_back(parts.publication.blessed, error.reason)
            return
        losses = {f"{name}_loss": loss for name, loss in report.components.items()} | {"gradient_norm": report.gradient_norm}
        row = parts.journal.train(batch, recipe, staged.digest, losses=losses, rate=rate, kind=kind)
        crash.point("after-journal")
        self._unsettled, self._refused = True, []
        _observe(report)
        parts.publication.publish(row, staged)
        parts.examiner.earn(time.monotonic() - self._last_start)

    def _settle(self) -> None:
        self._last_start = time.monotonic()
        self._unsettled = False
        parts = self._parts
        parts.trainer.settle()
        staged = parts.publication.stage(parts.trainer.bits)
        parts.publication.publish(parts.journal.change("settle", self._recipe, {}, staged.digest), staged)

    def _refuse(self, batch: MicroBatch, why: str) -> None:
        """Nothing was changed, so nothing is undone; after three steps in a row the weights themselves are suspected."""
        _log.warning("a step was refused", reason=why, feedback=len(batch.feedback_examples))
        telemetry.counter("guard_decisions_total").labels("refuse").inc()
        self._parts.journal.quarantine(batch.new, f"its step was refused: {why}")
        self._parts.journal.note("refuse", self._recipe, why=why, feedback=list(batch.new))
        if not batch.new:
            self._consolidation.give_up()
            return
        self._refused.append(batch.new)
        if len(self._refused) >= _REFUSALS:
            given_back = [one for refused in self._refused for one in refused]
            why = f"{_REFUSALS} steps in a row were refused; the last: {why}"
            self._rollback.take_back(self._parts.publication.blessed, why, given_back)

    def _set_aside(self, burst: Burst) -> None:
        _log.warning("feedback was set aside", reason=burst.why, feedback=len(burst.feedback))
        telemetry.counter("guard_decisions_total").labels("burst").inc()
        self._parts.journal.quarantine(burst.feedback, burst.why)
        self._parts.journal.note("burst", self._recipe, why=burst.why, feedback=burst.feedback)

    def _begin_anew(self) -> None:
        """Other weights were journalled: what was under way is of the old ones."""
        self._unsettled, self._refused = False, []
        self._consolidation.give_up()
        self._housekeeping.save(wait=False)

    def _go_on(self) -> None:
        """Keep the lease through an order that takes long. Raises NotNow where the learner is to stop."""
        if self._stopping.is_set():
            raise NotNow("the learner stops: it goes on with the rebuild when it starts again")
        self._parts.journal.renew()

    def _promote(self, version: int, by: By) -> None:
        """Bless what users prefer; what is being evaluated is compared with that from now on."""
        self._operator.promote(version, by)
        self._parts.examiner.begin_again()


@contextmanager
def _traced(traces: Sequence[Trace]) -> Iterator[None]:
    """What runs inside is a span with links to the feedback it learns from; each of those gets one of its own, from acceptance to now."""
    with tracing.span("step", parent="", links=[one.traceparent for one in traces], liveloop__feedback=len(traces)) as step:
        yield
    for one in traces:
        with tracing.span("learn", parent=one.traceparent, links=[step.traceparent], start=one.accepted_at):
            pass


def _observe(report: StepReport) -> None:
    telemetry.counter("learner_steps_total").inc()
    telemetry.gauge("learner_last_step_timestamp_seconds").set(time.time())
    for component, loss in report.components.items():
        telemetry.gauge("learner_loss").labels(component).set(loss)
