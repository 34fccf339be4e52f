"""The learner's loop on a real event log, a real weight store and a tiny model, turn by turn."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from liveloop.errors import Misconfigured, Unavailable
from liveloop.events.sqlite import SqliteLog
from liveloop.tasks import LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.v1.events_pb2 import SOURCE_EXPERT, SOURCE_HUMAN, THUMB_DOWN, THUMB_UP, Event, Feedback, FeedbackEvent, Input, PredictionEvent
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.mirror import Mirror
from liveloop.weights.publisher import Publisher
from services.learner import housekeeping
from services.learner.evaluator import Evaluator
from services.learner.examiner import Examiner
from services.learner.joiner import Joiner, is_held_out
from services.learner.journal import Journal
from services.learner.loop import LearnerLoop, Pace
from services.learner.micro_batch import MicroBatches
from services.learner.parts import Parts
from services.learner.publication import Publication
from services.learner.redo import redo
from services.learner.resume import resume
from services.learner.tensors import TensorCache
from services.learner.trainer import Trainer
from tests.bounded import id_at
from tests.tiny import tiny_bundle
from tests.unit.test_joiner import prediction_id
from tests.unit.test_learning import RECIPE

CPU = torch.device("cpu")
TASK_ROWS = [LabelledExample("good film", 1), LabelledExample("bad film", 0)] * 20


class Bench:
    """A learner that can be stopped and started on the same folder."""

    recipe = RECIPE

    def __init__(
        self,
        folder: Path,
        *,
        gated: bool = False,
        canary_share: float = 1.0,
        validation: Sequence[LabelledExample] = TASK_ROWS,
        consolidate_after: float = math.inf,
    ) -> None:
        self.consolidate_after = consolidate_after
        self.folder = folder
        self.gated = gated
        self.canary_share = canary_share
        self.validation = {f"task:{index}": row for index, row in enumerate(validation)}
        self.key = Ed25519PrivateKey.generate()
        self.bundle, bits = tiny_bundle()
        self.log = SqliteLog(folder / "events.db")
        Publisher.first(DirectoryStore(folder / "weights"), self.key, self.bundle, bits).close()
        self.sent = 0
        self.start()

    def start(self) -> None:
        task = Classification(self.bundle)
        journal = Journal(self.folder / "learner.db", holder="test")
        assert journal.acquire(1)
        store = DirectoryStore(self.folder / "weights")
        self.publisher = Publisher(store, self.key, epoch=journal.epoch, canary_share=self.canary_share)
        publication = Publication(self.publisher, journal, self.mirror(), gated=self.gated)
        batches = MicroBatches(journal.db, TASK_ROWS, task.labels)
        trainer = Trainer(task, self.bundle.layout, CPU)
        evaluator = Evaluator(task, self.bundle.layout, self.validation, CPU)
        self.parts = Parts(
            log=self.log,
            journal=journal,
            joiner=Joiner(journal.db, labels=task.labels, window=1e12),
            batches=batches,
            trainer=trainer,
            publication=publication,
            examiner=Examiner(evaluator, journal, batches, trainer, publication),
            tensors=TensorCache(self.folder / "tensors", history=1e6),
        )
        resume(self.parts, self.recipe)
        self.loop = LearnerLoop(
            self.parts, self.recipe, Pace(step_interval=0.0, micro_batch_limit=64, history=1e12, consolidate_after=self.consolidate_after)
        )

    def mirror(self) -> Mirror | None:
        """What copies the weights elsewhere; none here."""
        return None

    def close(self) -> None:
        self.parts.tensors.close()
        self.publisher.close()
        self.parts.journal.close()
        self.log.close()

    def crash(self) -> None:
        """Drop everything without saving, as SIGKILL does, and start again."""
        self.parts.tensors.close()
        self.publisher.close()
        self.parts.journal.close()
        self.start()

    def thumb(self, signal: int, *, held_out: bool = False, source: int = SOURCE_HUMAN, judge: bytes = b"j") -> None:
        of = prediction_id(self.sent, held_out=held_out)
        self.sent += 1
        prediction = PredictionEvent(prediction_id=of, input=Input(text="a good movie"), label="positive", version=1)
        prediction.created_at.GetCurrentTime()
        event = FeedbackEvent(feedback=Feedback(feedback_id="x", prediction_id=of, thumb=signal, source=source), judge=judge)
        event.accepted_at.GetCurrentTime()
        self.log.append([Event(prediction=prediction), Event(feedback=event)])

    def turn_until(self, condition) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the loop never got there"
            self.loop.turn()

    def states(self) -> list[int]:
        return [state for (state,) in self.parts.journal.db.execute("SELECT state FROM feedback ORDER BY id")]

    @property
    def head(self):
        return self.publisher.head

    def is_quiet(self) -> bool:
        return not self.loop._unsettled and not self.parts.examiner.has_work


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.close()


def test_a_lone_thumb_becomes_one_step_and_its_settle_rows(bench: Bench):
    bench.turn_until(bench.is_quiet)
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_TRAINED] and bench.is_quiet())
    kinds = [row.kind for row in bench.parts.journal.since(0)]
    assert kinds == ["init", "train", "settle"]
    assert bench.head.current == len(kinds) and np.array_equal(bench.publisher.state.bits, bench.parts.trainer.bits)


def test_nothing_trains_without_feedback(bench: Bench):
    bench.turn_until(bench.is_quiet)
    for _ in range(5):
        bench.loop.turn()
    assert bench.head.current == 1


def test_held_out_feedback_is_evaluated_and_never_trained(bench: Bench):
    bench.thumb(THUMB_UP, held_out=True)
    bench.turn_until(lambda: bool(bench.states()))
    for _ in range(5):
        bench.loop.turn()
    assert bench.states() == [State.FEEDBACK_STATE_HELD_OUT] and bench.head.current == 1
    assert len(bench.parts.batches.held_out(10)) == 1


def test_a_crash_is_redone_to_the_bit_and_goes_on(bench: Bench):
    for _ in range(3):
        bench.thumb(THUMB_UP)
        bench.turn_until(lambda: not bench.parts.batches.waiting() and len(bench.states()) == bench.sent)
    bits, version = bench.parts.trainer.bits.copy(), bench.head.current
    bench.crash()
    assert np.array_equal(bench.parts.trainer.bits, bits) and bench.head.current == version
    bench.thumb(THUMB_DOWN)
    bench.turn_until(lambda: len(bench.states()) == 4 and not bench.parts.batches.waiting())
    assert bench.head.current > version and set(bench.states()) == {State.FEEDBACK_STATE_TRAINED}


def test_a_publish_that_a_crash_prevented_is_finished(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.thumb(THUMB_UP)
    monkeypatch.setattr(bench.parts.publication, "publish", lambda row, staged: None)
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_TRAINED])
    assert bench.head.current == 1
    bench.crash()
    bench.parts.publication.catch_up(bench.parts.trainer.bits)
    assert bench.head.current == 2 and bench.publisher.state.digest == bench.parts.journal.making(2).state_digest


def test_any_version_is_reproduced_from_the_journal_alone(bench: Bench):
    for source in (SOURCE_HUMAN, SOURCE_EXPERT):
        bench.thumb(THUMB_UP, source=source)
        bench.turn_until(bench.is_quiet)
        bench.turn_until(lambda: not bench.parts.batches.waiting() and len(bench.states()) == bench.sent and bench.is_quiet())
    journal, publisher = bench.parts.journal, bench.publisher
    other = Trainer(Classification(bench.bundle), bench.bundle.layout, CPU)
    for until in (3, bench.head.current):
        row = redo(journal, other, bench.parts.batches, lambda version: publisher.load(version, journal.manifest(version)), until=until)
        assert row.version == until and np.array_equal(other.bits, publisher.load(until, journal.manifest(until)))


def test_an_unequal_redo_says_so_and_publishes_a_new_version(bench: Bench):
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_TRAINED])
    version = bench.head.current
    bench.parts.journal.db.execute("UPDATE rows SET state_digest = ? WHERE kind = 'train'", (bytes(32),))
    bench.crash()
    bench.parts.publication.catch_up(bench.parts.trainer.bits)
    assert bench.parts.journal.last().kind == "rebase" and bench.head.current == version + 1
    bench.crash()
    assert bench.parts.journal.last().kind == "rebase"


def test_three_refusals_bring_back_the_blessed_weights_and_the_feedback(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.turn_until(bench.is_quiet)
    blessed = bench.parts.trainer.bits.copy()
    with monkeypatch.context() as patch:
        patch.setattr(bench.parts.guard, "refusal", lambda report: "the loss looks wrong")
        for expected in range(1, 4):
            bench.thumb(THUMB_UP)
            bench.turn_until(lambda: len(bench.states()) == expected and State.FEEDBACK_STATE_PENDING not in bench.states())  # noqa: B023
            bench.turn_until(lambda: len(bench.loop._refused) == expected % 3)  # noqa: B023
    assert bench.parts.journal.last().kind == "reset" and np.array_equal(bench.publisher.state.bits, blessed)
    assert bench.head.blessed == bench.head.current
    assert bench.states() == [State.FEEDBACK_STATE_JOINED] * 3
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_TRAINED] * 3)


def test_a_rollback_is_journalled_whole_or_not_at_all(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def cut_off(_: Sequence[int]) -> None:
        raise KeyboardInterrupt

    bench.turn_until(bench.is_quiet)
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_TRAINED] and bench.is_quiet())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bench.parts.journal, "give_back", cut_off)
        bench.loop._rollback.order(1, "guard", "it looked wrong")
    bench.crash()
    assert bench.states() == [State.FEEDBACK_STATE_TRAINED] and bench.parts.journal.last().kind != "reset"


def test_weights_that_are_not_finite_are_never_published(bench: Bench):
    bench.turn_until(bench.is_quiet)
    blessed = bench.parts.trainer.bits.copy()
    bench.parts.trainer._ema[0] = float("nan")
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_QUARANTINED])
    assert bench.parts.journal.last().kind == "reset" and np.array_equal(bench.publisher.state.bits, blessed)


def test_a_crash_between_the_head_and_the_journals_note_of_it_heals(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def cut_off(*_, **__):
        raise KeyboardInterrupt

    bench.turn_until(bench.is_quiet)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bench.parts.journal, "published", cut_off)
        bench.thumb(THUMB_UP)
        bench.turn_until(lambda: False)
    for _ in range(2):
        bench.crash()
        bench.turn_until(bench.is_quiet)
        bench.parts.publication.load(bench.head.blessed)
    assert bench.states() == [State.FEEDBACK_STATE_TRAINED]


def test_examples_older_than_the_history_are_neither_replayed_nor_evaluated(bench: Bench):
    bench.thumb(THUMB_UP, held_out=True)
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: State.FEEDBACK_STATE_TRAINED in bench.states())
    bench.parts.journal.db.execute("DELETE FROM predictions")
    assert bench.parts.batches.held_out(10) == {}
    assert bench.parts.batches.choose(nominal=8, limit=8, rng=random.Random(0)).replayed == ()


def test_a_version_that_was_collected_is_not_blessed(bench: Bench):
    bench.turn_until(bench.is_quiet)
    assert bench.parts.publication.bless(99) is False and bench.head.blessed == 1


def test_a_log_that_is_away_does_not_keep_joined_feedback_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def away(*_, **__):
        raise Unavailable("the broker is away")

    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_JOINED] or State.FEEDBACK_STATE_TRAINED in bench.states())
    monkeypatch.setattr(bench.log, "read", away)
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_TRAINED] and bench.is_quiet())


def test_a_failed_publish_keeps_its_settle_rows(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def away(*_, **__):
        raise Unavailable("no space left")

    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(bench.publisher, "publish", away)
        bench.thumb(THUMB_UP)
        bench.turn_until(lambda: False)
    bench.turn_until(bench.is_quiet)
    assert [row.kind for row in bench.parts.journal.since(0)] == ["init", "train", "settle"]
    assert bench.head.current == bench.parts.journal.last().version


def test_a_journal_of_another_model_stops_the_learner(bench: Bench):
    bench.parts.journal.close()
    bench.publisher.close()
    shutil.rmtree(bench.folder / "weights")
    bench.bundle, bits = tiny_bundle(labels=("negative", "neutral", "positive"))
    Publisher.first(DirectoryStore(bench.folder / "weights"), bench.key, bench.bundle, bits).close()
    with pytest.raises(Misconfigured, match="the journal is of another model"):
        bench.start()


def test_silence_trains_once_although_nothing_more_comes(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(housekeeping, "CHORES", 0.0)
    journal, now = bench.parts.journal, time.time()
    bench.parts.joiner = Joiner(journal.db, labels=("negative", "positive"), window=0.5, default_reward=1.0)
    of = next(one for one in (id_at(now, number) for number in range(999)) if not is_held_out(one))
    prediction = PredictionEvent(prediction_id=of, input=Input(text="a good movie"), label="positive", version=1)
    prediction.created_at.GetCurrentTime()
    bench.log.append([Event(prediction=prediction)])
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_TRAINED])
    bench.crash()
    bench.turn_until(bench.is_quiet)
    assert bench.states() == [State.FEEDBACK_STATE_TRAINED]
    assert [row.body["new"] for row in bench.parts.journal.since(0) if row.kind == "train"] == [[1]]
