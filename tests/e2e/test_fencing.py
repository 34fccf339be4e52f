"""Two learners on one data folder, real processes and a real server: one learns, one stands by, and none writes once it was overtaken."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from liveloop import keys
from liveloop.errors import WeightsRefused
from liveloop.settings import Settings
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.weights_pb2 import Head
from liveloop.weights import open_store
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.head import read_head
from liveloop.weights.mirror import Copier
from liveloop.weights.publisher import Publisher
from liveloop.weights.store import WeightStore
from services.commands.processes import free_settings
from services.learner.__main__ import _STANDBY_POLL
from services.learner.lease import LEASE_SECONDS
from tests.e2e.running import Running, wait_for
from tests.servers import ValkeyServer
from tests.tiny import tiny_bundle

TEXTS = ("a good movie", "a dull film", "this was not boring")


@dataclass(frozen=True)
class Two:
    """Two learners on one data folder, and a pod beside them."""

    pod: Running
    learners: tuple[Running, Running]

    def active(self) -> Running:
        """The one that learns, once there is one."""
        return wait_for(lambda: next((learner for learner in self.learners if is_active(learner)), None), "a learner is active")

    def other(self, learner: Running) -> Running:
        return next(one for one in self.learners if one is not learner)

    def heads(self) -> tuple[Head, Head]:
        """What the learners' own store and Redis say."""
        settings = self.pod.settings
        with open_store(settings.weights) as store:
            return tuple(read_head(one, keys.verify_key(settings)) for one in (DirectoryStore(settings.data / "weights"), store))  # type: ignore[return-value]

    def journal(self, query: str) -> list[tuple[int, ...]]:
        with closing(sqlite3.connect(self.pod.settings.data / "learner.db", timeout=30.0)) as db:
            return db.execute(query).fetchall()


@dataclass
class Traffic:
    """What clients saw while the learners changed places."""

    versions: list[int]
    failures: list[str]

    def is_good(self) -> bool:
        """Every request was answered, and no version was older than one seen before."""
        assert self.failures == []
        assert self.versions == sorted(self.versions)
        return bool(self.versions)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("fencing")
    tiny_data(folder / "data")
    with ExitStack() as started:
        valkey = ValkeyServer(folder / "valkey")
        started.callback(valkey.kill)
        valkey.start()
        changes = {"weights_url": valkey.url, "learner_threads": 1, "inference_threads": 1, "learning_rate": 1e-3}
        settings = free_settings(Settings(data=folder / "data")).model_copy(update=changes)
        own = free_settings(settings)
        beside = {"learner_listen": own.learner_listen, "learner_ops_listen": own.learner_ops_listen}
        pod = Running(settings, services=["inference"])
        learners = Running(settings, services=["learner"]), Running(settings.model_copy(update=beside), services=["learner"])
        for running in (*learners, pod):
            started.callback(running.stop)
            running.start()
        yield Two(pod, learners)


def test_a_learner_that_was_stopped_while_the_other_took_over_can_do_nothing_when_it_wakes(two: Two) -> None:
    stale = two.active()
    successor = two.other(stale)
    assert not is_active(successor)
    judged_and_served(two.pod, stale)
    with traffic(two.pod) as seen:
        stopped = stop_between_transactions(stale)
        wait_for(lambda: is_active(successor), "the other learner is active")
        judged_and_served(two.pod, successor)
        ((overtaken,),) = two.journal("SELECT epoch FROM lease")
        stale.processes.processes["learner"].send_signal(signal.SIGCONT)
        wait_for(lambda: not is_active(stale) and says(stale, "another learner took over"), "it knows that it was overtaken")
        for _ in range(2):
            judged_and_served(two.pod, successor)
    assert seen.is_good()
    assert is_active(successor)
    assert two.journal("SELECT epoch FROM lease") == [(overtaken,)]
    epochs = [epoch for (epoch,) in two.journal("SELECT epoch FROM rows ORDER BY row")]
    assert epochs == sorted(epochs)
    assert epochs.count(stopped.epoch) == stopped.rows
    assert {head.epoch for head in two.heads()} == {overtaken}


def test_a_standby_takes_over_when_the_active_learner_is_killed_and_pods_serve_on(two: Two) -> None:
    dies = two.active()
    successor = two.other(dies)
    assert not is_active(successor)
    before = judged_and_served(two.pod, dies)
    with traffic(two.pod) as seen:
        dies.processes.kill("learner")
        wait_for(lambda: is_active(successor), "the standby is active")
        after = judged_and_served(two.pod, successor)
        wait_for(lambda: two.pod.client.model().version >= after, "the pod serves what the standby published")
    assert seen.is_good()
    assert after > before
    assert LEASE_SECONDS + _STANDBY_POLL < 5.0  # what a takeover waits for, at the most


def test_a_learner_leads_above_a_greater_epoch_that_redis_has_as_after_a_backup_was_put_back(two: Two, tmp_path: Path) -> None:
    settings = two.pod.settings
    shutil.copytree(settings.data / "weights", tmp_path / "weights")
    elsewhere = DirectoryStore(tmp_path / "weights")
    ahead = two.heads()[0].epoch + 50
    with Publisher(elsewhere, keys.signing_key(settings), epoch=ahead), open_store(settings.weights) as store:
        head = elsewhere.head()
        assert head is not None
        wait_for(lambda: copied(head, elsewhere, store), "Redis has the other's head")
        judged_and_served(two.pod, two.active())
    assert two.heads()[0].epoch == two.heads()[1].epoch > ahead


def copied(head: bytes, source: WeightStore, target: WeightStore) -> bool:
    try:
        Copier(source, target, take_over=True).copy(head)
    except WeightsRefused:
        return False  # the learner's mirror was between our two looks
    return True


@dataclass(frozen=True)
class Stopped:
    """Where a learner was when it was stopped."""

    epoch: int
    rows: int


def stop_between_transactions(running: Running) -> Stopped:
    """SIGSTOP the learner where it holds no lock: one that holds the database keeps everybody out."""
    process = running.processes.processes["learner"]
    while True:
        process.send_signal(signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(running.settings.data / "learner.db", timeout=0.1, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                (epoch,) = db.execute("SELECT epoch FROM lease").fetchone()
                (rows,) = db.execute("SELECT count(*) FROM rows WHERE epoch = ?", (epoch,)).fetchone()
                db.execute("ROLLBACK")
                return Stopped(epoch, rows)
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)


@contextmanager
def traffic(running: Running) -> Iterator[Traffic]:
    """Predictions one after the other while the block runs."""
    seen, done = Traffic([], []), threading.Event()

    def ask() -> None:
        with running.new_client() as client:
            while not done.wait(0.02):
                try:
                    seen.versions.append(client.predict(TEXTS[len(seen.versions) % len(TEXTS)], store=False).version)
                except Exception as error:  # noqa: BLE001  whatever a client sees is a failure
                    seen.failures.append(repr(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def judged_and_served(pod: Running, learner: Running) -> int:
    """Give one thumb, and wait until `learner` says that the pods serve it; the version that includes it."""
    prediction = pod.predict(TEXTS[0])
    ack = pod.accepted(pod.client.feedback(prediction, "up"))
    return learner.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED).version


def is_active(running: Running) -> bool:
    """What the learner's own gauge says; a learner that stands by is ready too."""
    address = running.settings.learner_ops_listen
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as ready:
            assert ready.status == 200
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as metrics:
            return b"\nliveloop_learner_active 1.0" in metrics.read()
    except OSError:
        return False


def says(running: Running, sentence: str) -> bool:
    return sentence in running.processes.log("learner").read_text()


def tiny_data(data: Path) -> None:
    """What `liveloop init` makes, of a model of a few thousand weights."""
    keys.make_keys(data / "keys")
    bundle, bits = tiny_bundle()
    Publisher.first(DirectoryStore(data / "weights"), keys.signing_key(Settings(data=data)), bundle, bits).close()
    (data / "task").mkdir()
    rows = [{"text": "a good movie", "label": "positive"}, {"text": "a bad movie", "label": "negative"}]
    for name in ("train", "validation"):
        (data / "task" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 20))
