"""The full evaluation on a real loop, journal and store: what it blesses, takes back, and in which order it asks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from liveloop.errors import BlobCorrupt, Unavailable
from liveloop.tasks import LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import widen
from liveloop.v1.events_pb2 import THUMB_UP
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.weights_pb2 import Layout
from services.learner import examiner as examiner_module
from services.learner.evaluator import Evaluator
from services.learner.examiner import PROBE, SLICE, Examiner
from services.learner.loop import LearnerLoop
from services.learner.rollback import GUARD
from services.learner.trainer import Recipe, StepReport, Trainer
from services.learner.view import JournalView
from tests.tiny import tiny_bundle
from tests.unit.test_learner_loop import CPU, Bench
from tests.unit.test_learning import RECIPE

WORDS = ("a bad", "not boring", "this dull", "great", "it was", "the good", "fine", "of a")
TEXTS = [" ".join(words) for words in itertools.product(WORDS, ("film", "movie", "is"), WORDS[:5])]


def answered_by_version_1() -> list[LabelledExample]:
    """Rows that the first version answers right, one and all."""
    bundle, bits = tiny_bundle()
    task = Classification(bundle)
    model = task.new_model(bundle.layout, widen(bits))
    return [LabelledExample(text, answer.label) for text, answer in zip(TEXTS, task.answer(model, task.encode(TEXTS)), strict=True)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path, validation=answered_by_version_1())
    yield found
    found.close()


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path, validation=answered_by_version_1(), gated=True)
    yield found
    found.close()


def flip(trainer: Trainer, layout: Layout) -> None:
    """What a bug might do: the classifier's weights change their sign, and every answer with them."""
    start = next(tensor.offset for tensor in layout.tensors if tensor.name == "classifier.weight") - layout.frozen
    trainer._parameter.data[start:].neg_()
    trainer._ema[start:].neg_()
    trainer._serve()


def learn(bench: Bench) -> None:
    """One thumb, learnt from; its step may be looked at by the cheap checks later."""
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: len(bench.states()) == bench.sent and State.FEEDBACK_STATE_JOINED not in bench.states())


def spoil(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> int:
    """Learn from one thumb in a step that flips the signs; the version it made."""
    apply = Trainer.apply

    def bad(self: Trainer, report: StepReport, recipe: Recipe, *, rate: float) -> None:
        apply(self, report, recipe, rate=rate)
        flip(self, bench.bundle.layout)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "apply", bad)
        learn(bench)
    return bench.parts.journal.last().version or 0


def test_a_version_as_good_as_the_blessed_one_is_blessed_with_its_scores(bench: Bench):
    learn(bench)
    bench.turn_until(bench.is_quiet)
    newest = bench.parts.journal.last().version
    assert bench.head.blessed == newest > 1
    version = JournalView(bench.folder / "learner.db").versions(1)[0]
    assert version.blessed and version.accuracy > 0.98


def test_a_collapse_is_served_for_a_few_slices_only(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.turn_until(bench.is_quiet)
    blessed = bench.parts.trainer.bits.copy()
    bad = spoil(bench, monkeypatch)
    bench.loop._unsettled = False
    assert bench.head.current == bad
    for _ in range(PROBE // SLICE + 1):
        bench.loop.turn()
    last = bench.parts.journal.last()
    assert last.kind == "reset" and last.body["who"] == GUARD and last.body["to"] == 1 and last.body["quarantined"] == 1
    assert np.array_equal(bench.publisher.state.bits, blessed) and bench.head.current == bench.head.blessed == last.version
    assert bench.states() == [State.FEEDBACK_STATE_QUARANTINED]
    bench.turn_until(bench.is_quiet)
    assert bench.parts.journal.last().version == last.version  # and there it stays


def test_a_probe_of_the_newest_version_interrupts_an_evaluation_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(examiner_module, "_PROBE_INTERVAL", 0.0)
    learn(bench)
    bench.parts.examiner.turn()  # of the full evaluation
    spoil(bench, monkeypatch)
    for _ in range(PROBE // SLICE + 2):
        if verdict := bench.parts.examiner.turn():
            break
    assert verdict is not None and verdict.to == 1
    assert bench.parts.journal.db.execute("SELECT count(*) FROM evaluations").fetchone() == (0,)


def test_feedback_that_waits_leaves_the_evaluation_its_share(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.turn_until(bench.is_quiet)
    monkeypatch.setattr(bench.parts.batches, "waiting", lambda: 1)
    bench.loop._last_start = time.monotonic()
    monkeypatch.setattr(LearnerLoop, "_seconds_until_due", lambda self: 1.0)
    bench.parts.journal.change("settle", RECIPE, {}, b"")
    examiner = bench.parts.examiner
    examiner._credit = 0.0
    assert examiner.has_work and not bench.loop._may_examine(1)
    examiner.earn(0.3)
    assert bench.loop._may_examine(1)
    examiner.turn()
    examiner._credit -= 50.0
    examiner.turn()
    assert examiner._credit >= -1.0  # quiet times leave no debt behind that busy ones had to pay


def test_feedback_that_never_stops_does_not_keep_a_collapse_from_being_found(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.turn_until(bench.is_quiet)
    spoil(bench, monkeypatch)
    monkeypatch.setattr(examiner_module, "_PROBE_INTERVAL", 0.0)
    deadline = time.monotonic() + 60.0  # turns would not do: how many slices a turn may take depends on how long steps and slices last
    while time.monotonic() < deadline:
        bench.thumb(THUMB_UP)  # a step is always due
        bench.loop.turn()
        if bench.parts.journal.last().kind == "reset":
            break
    assert bench.parts.journal.last().kind == "reset" and bench.parts.batches.waiting()


def test_three_rollbacks_in_a_row_pause_training_until_somebody_resumes_it(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    for expected in range(1, 4):
        bench.turn_until(bench.is_quiet)
        spoil(bench, monkeypatch)
        bench.turn_until(lambda: bench.parts.journal.resets_in_a_row(GUARD) == expected)  # noqa: B023
    assert bench.parts.journal.is_paused()
    version = bench.parts.journal.last().version
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: len(bench.states()) == 4)
    for _ in range(20):
        bench.loop.turn()
    assert bench.states()[-1] == State.FEEDBACK_STATE_JOINED and bench.parts.journal.last().version == version
    bench.crash()
    bench.parts.journal.resume(RECIPE, who="ann", why="mended")
    bench.turn_until(lambda: bench.states()[-1] == State.FEEDBACK_STATE_TRAINED and bench.is_quiet())
    assert bench.head.blessed == bench.head.current > version


def test_a_slow_slide_goes_back_to_what_was_blessed_an_hour_ago(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.turn_until(bench.is_quiet)
    bench.parts.journal.db.execute("UPDATE versions SET blessed_at = blessed_at - 4000")
    anchored = bench.parts.trainer.bits.copy()
    bad = spoil(bench, monkeypatch)
    bench.loop._unsettled = False
    bench.parts.publication.bless(bad)  # as if it had got there by small steps
    bench.turn_until(lambda: bench.parts.journal.last().kind == "reset")
    assert bench.parts.journal.last().body["to"] == 1 and np.array_equal(bench.publisher.state.bits, anchored)
    assert bench.head.blessed == bench.head.current == bad + 1


def test_held_out_feedback_that_came_later_is_answered_by_the_blessed_version_too(bench: Bench):
    bench.turn_until(bench.is_quiet)
    for _ in range(3):
        bench.thumb(THUMB_UP, held_out=True)
    learn(bench)
    compared = []
    decide = bench.parts.examiner._decide
    bench.parts.examiner._decide = lambda done: (compared.append(done), decide(done))[1]
    bench.turn_until(lambda: bench.is_quiet() and compared)
    (other,) = compared[-1].others
    assert other.version == 1 and len(TEXTS) + 3 == compared[-1].against()[1].rows


def test_gated_publishing_publishes_blessed_versions_alone(gated: Bench, monkeypatch: pytest.MonkeyPatch):
    gated.turn_until(gated.is_quiet)
    seen = set()
    gated.thumb(THUMB_UP)
    gated.turn_until(lambda: seen.add((gated.head.current, gated.head.blessed)) or (len(gated.states()) == 1 and gated.is_quiet()))
    assert all(current == blessed for current, blessed in seen)
    newest = gated.parts.journal.last()
    assert gated.head.current == newest.version and gated.publisher.state.digest == newest.state_digest
    spoil(gated, monkeypatch)
    gated.parts.publication.catch_up(gated.parts.trainer.bits)
    assert gated.head.current == newest.version
    gated.turn_until(lambda: gated.parts.journal.last().kind == "reset")
    assert gated.publisher.state.digest == newest.state_digest and gated.head.current == gated.head.blessed > newest.version


def test_gated_publishing_stays_gated_over_a_restart(gated: Bench):
    gated.turn_until(gated.is_quiet)
    learn(gated)
    assert gated.parts.journal.last().version > gated.head.current == 1
    gated.crash()
    gated.parts.publication.catch_up(gated.parts.trainer.bits)
    assert gated.head.current == 1
    gated.turn_until(gated.is_quiet)
    assert gated.head.current == gated.head.blessed == gated.parts.journal.last().version


def test_a_version_that_passed_while_the_disk_was_full_is_published_later(gated: Bench, monkeypatch: pytest.MonkeyPatch):
    gated.turn_until(gated.is_quiet)
    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(gated.publisher, "publish", full)
        gated.thumb(THUMB_UP)
        gated.turn_until(lambda: False)
    assert gated.head.current == 1
    gated.turn_until(gated.is_quiet)
    assert gated.head.current == gated.head.blessed == gated.parts.journal.last().version > 1


@pytest.mark.parametrize("kind", ["bench", "gated"])
def test_a_rollback_that_could_not_be_published_is_published_before_the_next_step(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
):
    learner: Bench = request.getfixturevalue(kind)
    learner.turn_until(learner.is_quiet)
    learn(learner)
    learner.turn_until(learner.is_quiet)
    assert learner.head.blessed > 1
    learner.thumb(THUMB_UP)
    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(learner.publisher, "publish", full)
        learner.loop._rollback.order(1, "ann", "it looked wrong")
    reset = learner.parts.journal.last().version
    monkeypatch.setattr(Examiner, "has_work", property(lambda examiner: False))
    learner.turn_until(lambda: learner.parts.journal.last().version > reset)
    published = [number for (number,) in learner.parts.journal.db.execute("SELECT version FROM versions ORDER BY version")]
    assert reset in published and learner.head.blessed == reset


def test_what_cannot_be_compared_with_the_blessed_version_does_not_take_its_place(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def damaged(version: int) -> np.ndarray:
        raise BlobCorrupt(f"version {version} is damaged")

    monkeypatch.setattr(bench.parts.publication, "load", damaged)
    spoil(bench, monkeypatch)
    bench.turn_until(bench.is_quiet)
    assert bench.head.current > bench.head.blessed == 1


def test_a_version_meets_the_blessed_one_together_with_those_blessed_before_it(bench: Bench):
    examiner = bench.parts.examiner
    bench.turn_until(bench.is_quiet)
    for expected in (1, 2, 2):
        learn(bench)
        bench.turn_until(bench.is_quiet)
        assert bench.head.blessed == bench.head.current and len(examiner._earlier) == expected
    bench.loop._rollback.order(1, "ann", "it looked wrong")
    assert not examiner._earlier


def full(*_: object, **__: object) -> None:
    raise Unavailable("no space left")


def test_a_lost_journal_leaves_the_blessed_version_to_compare_with_and_to_go_back_to(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.turn_until(bench.is_quiet)
    learn(bench)
    bench.turn_until(bench.is_quiet)
    blessed, bits = bench.head.blessed, bench.parts.trainer.bits.copy()
    with monkeypatch.context() as patch:
        patch.setattr(Examiner, "has_work", property(lambda examiner: False))
        spoil(bench, monkeypatch)
    assert bench.head.current > bench.head.blessed == blessed > 1
    bench.parts.journal.close()
    bench.parts.tensors.close()
    for path in (*bench.folder.glob("learner.db*"), *(bench.folder / "tensors").iterdir()):
        path.unlink()
    bench.start()
    assert not bench.parts.journal.is_undone(blessed)
    bench.turn_until(lambda: bench.parts.journal.last().kind == "reset")
    bench.turn_until(bench.is_quiet)
    assert np.array_equal(bench.publisher.state.bits, bits) and bench.head.blessed == bench.head.current


def test_the_order_of_rows_is_stable_and_fair_to_every_split():
    bundle, _ = tiny_bundle()
    rows = {f"{split}:{number}": LabelledExample("a film", 0) for split, count in (("task", 90), ("short", 10)) for number in range(count)}
    evaluator = Evaluator(Classification(bundle), bundle.layout, rows, CPU)
    order = list(evaluator.rows({}))
    assert order == list(evaluator.rows({})) and len(order) == 100
    assert sum(name.startswith("short") for name in order[:20]) == 10 and order[:20] != sorted(order[:20])


def test_an_evaluation_reads_what_is_trained_from_its_own_copy():
    bundle, bits = tiny_bundle()
    evaluator = Evaluator(Classification(bundle), bundle.layout, {}, CPU)
    evaluator.reset(bits)
    rows = {f"task:{number}": row for number, row in enumerate(answered_by_version_1()[:SLICE])}
    assert all(evaluator.answer(evaluator.trained(bits), rows).values())
    other = bits.copy()
    other[next(tensor.offset for tensor in bundle.layout.tensors if tensor.name == "classifier.weight") :] ^= 0x8000
    assert not all(evaluator.answer(evaluator.trained(other), rows).values())
    assert torch.equal(evaluator._flat[: bundle.layout.frozen], widen(bits[: bundle.layout.frozen]))
