"""Every service killed at every named point: what was acknowledged counts once, and the journal explains the weights that are served.

A chain of crashes on one loop: the victim is started armed with a point, thumbs flow until it dies there, and is started again armed with
the next point, so that each recovery is also work under the next crash.

What a pod serves is asked by version: it flips to a version only once its own state has the digest that the version's manifest is signed
with (tests/unit/test_replica.py), and the redo of the journal is compared with that digest.
"""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Set
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from liveloop import crash, keys
from liveloop.errors import LiveloopError, Overloaded, Unavailable
from liveloop.settings import Settings
from liveloop.v1.inference_pb2 import ACK_STATUS_ACCEPTED, ACK_STATUS_DUPLICATE
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.weights import open_store
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.manifest import open_head
from services.commands.initial import publish
from services.commands.processes import Loop, free_settings
from services.learner.task_data import Row, TaskData
from tests.e2e.running import Running, wait_for
from tests.e2e.test_learner_killed import SETTLED, Ledger, assert_in_one_standing_row, assert_journal_explains_weights
from tests.tiny import tiny_bundle

Chain = tuple[tuple[str, tuple[str, ...]], ...]  # who dies, and where

EMBEDDED: Chain = (
    ("inference", ("after-append:3", "after-ack:3", "after-flip")),
    (
        "learner",
        (
            "after-read:2",
            "after-ingest:3",
            "after-compute:2",
            "after-journal",
            "after-blob:2",
            "after-blobs",
            "after-head:2",
            "after-bless",
            "after-reset",
            "before-tensor-fsync",
            "after-tensor-rename",
        ),
    ),
)
DISTRIBUTED: Chain = (("inference", ("after-relay:2",)), ("learner", ("after-mirror-blobs", "after-mirror-head")))
BACK = ("after-reset", "before-tensor-fsync", "after-tensor-rename")
"""Points that an order to go back passes."""
QUIET = ("after-bless",)
"""Points that are passed when nobody judges."""


def test_every_crash_point_is_exercised() -> None:
    assert sorted(point.partition(":")[0] for _, points in (*EMBEDDED, *DISTRIBUTED) for point in points) == sorted(crash.POINTS)


def test_the_embedded_loop_survives_a_crash_at_every_point(tmp_path: Path) -> None:
    survive(tiny_settings(tmp_path), EMBEDDED)


def test_the_distributed_loop_survives_a_crash_of_relay_and_mirror(tmp_path: Path, kafka: str, redis_url: str) -> None:
    name = f"ledger-{uuid.uuid4().hex}"
    urls = {"events_url": f"kafka://{kafka}/{name}", "weights_url": f"{redis_url}?prefix={name}"}
    settings = tiny_settings(tmp_path, topic_partitions=2, **urls)
    survive(settings, DISTRIBUTED)
    with open_store(settings.weights) as redis:
        assert redis.head() == DirectoryStore(settings.data / "weights").head()


def survive(settings: Settings, chain: Chain) -> None:
    running = Running(settings, services=("learner", "inference"))
    running.start()
    try:
        with thumbs(running) as given:
            for victim, points in chain:
                running.processes.kill(victim)
                for point in points:
                    given.pods += victim == "inference"
                    die(running, victim, point, given.judging)
                given.pods += victim == "inference"
                running.processes.restart(victim)
            enough = len(given.ledger) + 3
            wait_for(lambda: len(given.ledger) >= enough, "feedback flows after the last crash")
        for entry in given.ledger:
            wait_for(partial(is_final, running, entry, given.interrupted), f"{entry} is final")
        assert running.wait_settled() == head_of(settings)
    finally:
        running.stop()
    assert_only_lost_predictions_are_waited_for(settings, given.interrupted)
    assert_in_one_standing_row(running, given.ledger)
    assert_journal_explains_weights(running)


def die(running: Running, victim: str, point: str, judging: threading.Event) -> None:
    """Start the victim armed, and do what passes the point until it is dead."""
    name = point.partition(":")[0]
    armed = Loop(running.settings, services=(victim,), environment={crash.ARMED: point})
    armed.launch(victim)
    process = armed.processes[victim]
    asked_at = 0.0

    def dead() -> bool:
        nonlocal asked_at
        if name in QUIET and time.monotonic() - asked_at > 2.0:  # a few thumbs, and a while of silence
            asked_at = time.monotonic()
            (judging.clear if judging.is_set() else judging.set)()
        if name in BACK and time.monotonic() - asked_at > 1.0:
            asked_at = time.monotonic()
            with suppress(LiveloopError), running.new_client(timeout=2.0) as client:
                client.rollback(1, who="the ledger")
        return process.poll() is not None

    try:
        wait_for(dead, f"the {victim} dies {point}")
        assert process.returncode == -signal.SIGKILL, armed.log(victim).read_text()[-2000:]
    finally:
        process.kill()
        process.wait()
        judging.set()


@dataclass
class Given:
    """What a client gave."""

    judging: threading.Event
    pods: int = 0  # that were started, one after the other
    ledger: Ledger = field(default_factory=list)
    interrupted: set[str] = field(default_factory=set)
    """Predictions that were asked for before a pod ended and judged after. An answer does not wait for the disk, so that its prediction
    may have ended with the pod; feedback on it, acknowledged by the next pod, then waits until it expires."""


@contextmanager
def thumbs(running: Running) -> Iterator[Given]:
    """Thumbs, one after the other, while `judging` is set; each is sent again until it is acknowledged, whatever dies meanwhile."""
    given, done = Given(threading.Event()), threading.Event()
    given.judging.set()

    def give() -> None:
        while not done.wait(0.1):
            if given.judging.is_set():
                judge(running, given, done)

    giver = threading.Thread(target=give)
    giver.start()
    try:
        yield given
    finally:
        done.set()
        giver.join()


def judge(running: Running, given: Given, done: threading.Event) -> None:
    """One thumb."""
    feedback_id, number, pods = str(uuid.uuid4()), len(given.ledger), given.pods
    prediction = None
    while not done.is_set():
        with suppress(Unavailable, Overloaded):
            prediction = prediction or running.client.predict(f"film {number} was fine")
            ack = running.client.feedback(prediction, ("up", "down")[number % 2], feedback_id=feedback_id)
            assert ack.status in (ACK_STATUS_ACCEPTED, ACK_STATUS_DUPLICATE), ack
            if given.pods != pods:
                given.interrupted.add(prediction.prediction_id)
            given.ledger.append((prediction.prediction_id, feedback_id))
            return


def is_final(running: Running, entry: tuple[str, str], interrupted: Set[str]) -> bool:
    """Nothing more becomes of a feedback, so far as can be told before all were read."""
    with suppress(LiveloopError):
        state = running.client.status(*entry).state
        return state in SETTLED or (state == State.FEEDBACK_STATE_PENDING and entry[0] in interrupted)
    return False


def assert_only_lost_predictions_are_waited_for(settings: Settings, interrupted: Set[str]) -> None:
    with closing(sqlite3.connect(settings.data / "learner.db")) as db:
        pending = {one for (one,) in db.execute("SELECT prediction_id FROM feedback WHERE state = ?", (State.FEEDBACK_STATE_PENDING,))}
        read = {one for (one,) in db.execute("SELECT prediction_id FROM predictions")}
    assert pending <= interrupted - read


def head_of(settings: Settings) -> int:
    blob = DirectoryStore(settings.data / "weights").head()
    assert blob is not None
    return open_head(blob, keys.signing_key(settings).public_key()).current


def tiny_settings(folder: Path, **urls: object) -> Settings:
    """A data folder with a tiny model and labelled rows."""
    settings = free_settings(Settings(data=folder / "data")).model_copy(update={"learner_threads": 1, "inference_threads": 1, **urls})
    rows = [
        Row(f"the film is {word} {number}", label) for number in range(60) for word, label in (("good", "positive"), ("bad", "negative"))
    ]
    publish(settings, *tiny_bundle(), TaskData(train=rows[:80], validation=rows[80:]), Console(quiet=True))
    return settings
