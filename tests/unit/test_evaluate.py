"""`liveloop evaluate` on a data folder that a learner is working in: what it prints, what the estimates stand on, what it refuses."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console

from liveloop import cli
from liveloop.events.sqlite import SqliteLog
from liveloop.settings import Settings
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP, Event, Feedback, FeedbackEvent, Input, PredictionEvent
from liveloop.weights.records import Records
from services.commands.initial import publish
from services.learner.assembly import assemble, new_loop, new_publisher
from services.learner.evaluation import Answerer, report
from services.learner.intervals import paired, share
from services.learner.journal import Journal
from services.learner.logged import logged
from services.learner.materials import load_materials, read_test
from services.learner.resume import resume
from services.learner.task_data import Row, TaskData
from tests.tiny import tiny_bundle
from tests.unit.test_joiner import START, prediction_id

CPU = torch.device("cpu")
WORDS = ("a bad", "not boring", "this dull", "great", "it was", "the good", "fine", "of a")
TEXTS = [" ".join(words) for words in itertools.product(WORDS, ("film", "movie", "is"), WORDS[:5])]
TRUTH = {text: ("negative", "positive")[number % 3 == 0] for number, text in enumerate(TEXTS)}
EPSILON = 0.5


class Learner:
    """A learner on a data folder of its own, turn by turn."""

    def __init__(self, folder: Path, *, test: int = 60) -> None:
        self.settings = Settings(
            data=folder, device="cpu", step_interval=0.0, learner_threads=1, learning_rate=3e-3, warm_up=0, ema_decay=0.0
        )
        rows = [Row(text, label) for text, label in TRUTH.items()]
        publish(self.settings, *tiny_bundle(), TaskData(rows[test:], [], rows[:test]), Console(quiet=True))
        self.materials = load_materials(self.settings, CPU)
        self.journal = Journal(folder / "learner.db", holder="test")
        assert self.journal.acquire(1)
        self.log = SqliteLog(folder / "events.db")
        self.publisher = new_publisher(self.settings, self.materials, self.journal)
        self.parts = assemble(self.settings, self.materials, self.materials.trainer(CPU), self.journal, self.log, self.publisher)
        resume(self.parts, self.materials.recipe)
        self.loop = new_loop(self.settings, self.materials, self.parts)
        self.since = time.time() - START
        self.sent = {False: 0, True: 0}

    def close(self) -> None:
        self.parts.tensors.close()
        self.publisher.close()
        self.journal.close()
        self.log.close()

    def judge(self, text: str, answered: str, *, propensity: float = 1.0, judge: str = "ann", held_out: bool = False) -> None:
        of = prediction_id(self.sent[held_out], held_out=held_out, seconds=self.since)
        self.sent[held_out] += 1
        prediction = PredictionEvent(prediction_id=of, input=Input(text=text), label=answered, version=1, propensity=propensity)
        prediction.created_at.GetCurrentTime()
        thumb = THUMB_UP if TRUTH[text] == answered else THUMB_DOWN
        feedback = FeedbackEvent(feedback=Feedback(feedback_id="x", prediction_id=of, thumb=thumb), judge=judge.encode())
        feedback.accepted_at.GetCurrentTime()
        self.log.append([Event(prediction=prediction), Event(feedback=feedback)])

    def learn(self) -> int:
        """Until all was read and learnt; the newest version."""
        self.turn_until(lambda: self.has_read() and not self.parts.batches.waiting())
        return self.publisher.head.current

    def has_read(self) -> bool:
        return self.journal.db.execute("SELECT count(*) FROM feedback WHERE state > 1").fetchone() == (sum(self.sent.values()),)

    def turn_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the loop never got there"
            self.loop.turn()

    def answerer(self, version: int) -> Answerer:
        return Answerer(self.materials.task, self.materials.layout, self.parts.publication.load(version), CPU)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    found = Learner(tmp_path)
    yield found
    found.close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("LIVELOOP_LEARNER_THREADS", "1")
    monkeypatch.setenv("LIVELOOP_DEVICE", "cpu")

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["evaluate", *arguments, "--data", str(tmp_path)])
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


def explored(learner: Learner, rounds: int, judges: int) -> None:
    """Answers of an epsilon-greedy policy that would say negative, judged by as many people in turn."""
    rng = np.random.default_rng(0)
    for number in range(rounds):
        answered = ("negative", "positive")[int(rng.random() < EPSILON / 2)]
        propensity = 1 - EPSILON / 2 if answered == "negative" else EPSILON / 2
        learner.judge(TEXTS[int(rng.integers(len(TEXTS)))], answered, propensity=propensity, judge=f"judge {number % judges}")


def test_a_version_is_reported_beside_version_1_on_test_rows_and_on_held_out_feedback(learner: Learner, run: Run):
    for text in TEXTS[100:112]:
        learner.judge(text, "positive", held_out=True)
    for number in range(4):
        for text in TEXTS[60 + 10 * number : 70 + 10 * number]:
            learner.judge(text, "positive", judge=text)
        version = learner.learn()
    done = run(str(version), "--json")
    found: dict[str, Any] = json.loads(done.out)
    rows = read_test(learner.settings.data / "task", learner.materials.task.labels)
    ours, first = learner.answerer(version).answer(rows), learner.answerer(1).answer(rows)
    assert ours != first
    right = [answer == row.label for answer, row in zip(ours, rows, strict=True)]
    before = [answer == row.label for answer, row in zip(first, rows, strict=True)]
    assert found["test"]["version"]["accuracy"]["value"] == pytest.approx(share(right).value)
    assert found["test"]["first"]["accuracy"]["value"] == pytest.approx(share(before).value)
    gained = paired(right, before)
    assert found["test"]["gained"] == {"value": gained.value, "low": gained.low, "high": gained.high}
    confusion = np.array(found["test"]["version"]["confusion"])
    assert confusion.sum() == 60 and np.trace(confusion) == sum(right)
    assert confusion.sum(axis=1).tolist() == [one["rows"] for one in found["test"]["version"]["labels"]]
    assert found["held_out"]["judgements"] == 12 and (done.code, found["off_policy"], found["refused"]) == (0, None, "")
    shown = run(str(version))
    assert shown.code == 0 and f"{100 * gained.value:.1f} (" in shown.out and "answered positive" in shown.out


def test_a_report_has_the_figures_of_its_confusion_matrix(learner: Learner):
    rows = read_test(learner.settings.data / "task", ("negative", "positive"))[:4]
    truth = [row.label for row in rows]
    assert truth == [1, 0, 0, 1]
    found = report(rows, [1, 1, 0, 1], ("negative", "positive"))
    negative, positive = found.labels
    assert (found.accuracy.value, found.confusion) == (0.75, ((1, 1), (0, 2)))
    assert (negative.rows, negative.precision, negative.recall, positive.recall) == (2, 1.0, 0.5, 1.0)
    assert positive.precision == pytest.approx(2 / 3) and found.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)


def test_off_policy_estimates_hold_what_the_version_would_have_earned(learner: Learner, run: Run):
    explored(learner, 400, 80)
    for text in TEXTS[:8]:
        learner.judge(text, "negative")  # served without exploration
    learner.learn()
    done = run("1", "--off-policy", "--json")
    found = json.loads(done.out)["off_policy"]
    assert (done.code, found["rounds"], found["deterministic"], found["judges"]) == (0, 400, 8, 80)
    texts = [one.text for one in logged(learner.journal.db, 1) if one.propensity < 1]
    chosen = learner.answerer(1).probabilities(texts).argmax(axis=1)
    truth = np.mean([TRUTH[text] == ("negative", "positive")[label] for text, label in zip(texts, chosen, strict=True)])
    for name in ("ips", "snips", "doubly_robust"):
        assert found[name]["low"] < truth < found[name]["high"]
    assert 50 < found["effective"] < 400
    assert "doubly robust" in run("1", "--off-policy").out


def test_a_version_is_not_judged_by_what_it_learnt_from(learner: Learner):
    for text in TEXTS[:8]:
        learner.judge(text, "negative")
    learner.judge(TEXTS[8], "negative", held_out=True)
    between = learner.learn()
    for text in TEXTS[10:13]:
        learner.judge(text, "negative")
    newest = learner.learn()
    texts = {version: {one.text for one in logged(learner.journal.db, version)} for version in (1, between, newest)}
    assert texts[1] == {*TEXTS[:9], *TEXTS[10:13]}
    assert texts[between] == {TEXTS[8], *TEXTS[10:13]}
    assert texts[newest] == {TEXTS[8]}


def test_a_log_of_a_deterministic_policy_is_refused_off_policy_and_the_report_is_there_all_the_same(learner: Learner, run: Run):
    for text in TEXTS[:8]:
        learner.judge(text, "negative")
    learner.learn()
    done = run("1", "--off-policy")
    assert done.code == 1 and "deterministic" in " ".join(done.out.split()) and "test rows" in done.out
    assert "deterministic" in json.loads(run("1", "--off-policy", "--json").out)["refused"]


def test_a_version_that_never_was_and_one_that_is_not_kept_are_told_apart(learner: Learner, run: Run):
    learner.judge(TEXTS[0], "negative")
    version = learner.learn()
    never = run("99")
    assert never.code == 2 and "version 99 was never published" in never.err
    records = Records(learner.materials.store, learner.materials.key.public_key())
    (manifest,) = records.manifests([learner.journal.manifest(version)])
    for blob in manifest.patch_blobs:
        (learner.settings.data / "weights" / "blobs" / blob[:2] / blob).unlink()
    gone = run(str(version))
    assert gone.code == 2 and f"the weights of version {version} are not kept any more" in gone.err and "liveloop pin" in gone.err


def test_without_anything_to_evaluate_on_it_says_so(tmp_path: Path, run: Run):
    learner = Learner(tmp_path, test=0)
    try:
        done = run("1")
        assert done.code == 2 and "nothing to evaluate on" in done.err
    finally:
        learner.close()
