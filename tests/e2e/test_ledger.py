"""Every service killed at every named point: what was acknowledged counts once, and the journal explains the weights that are served.

A chain of crashes on one loop: the victim is started armed with a point, thumbs flow until it dies there, and the next start is armed with
the next point, so that each recovery is also work under the next crash.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from liveloop import crash, keys
from liveloop.errors import LiveloopError, Overloaded, Unavailable
from liveloop.settings import Settings
from liveloop.v1.inference_pb2 import ACK_STATUS_ACCEPTED, ACK_STATUS_DUPLICATE
from liveloop.weights import open_store
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.manifest import open_head
from services.commands.initial import publish
from services.commands.processes import Loop, free_settings
from services.learner.task_data import Row, TaskData
from tests.e2e.running import Running, wait_for
from tests.e2e.test_learner_killed import Ledger, assert_in_one_standing_row, assert_journal_explains_weights, settled
from tests.kafka_servers import KafkaServer
from tests.servers import ValkeyServer
from tests.tiny import tiny_bundle

EMBEDDED = (
    ("learner", "after-read:2"),
    ("learner", "after-ingest:3"),
    ("learner", "after-compute:2"),
    ("learner", "after-journal"),
    ("learner", "after-blob:2"),
    ("learner", "after-blobs"),
    ("learner", "after-head:2"),
    ("inference", "after-append:3"),
    ("inference", "after-ack:3"),
    ("inference", "after-flip"),
    ("learner", "after-bless"),
    ("learner", "after-reset"),
    ("learner", "before-tensor-fsync"),
    ("learner", "after-tensor-rename"),
)
DISTRIBUTED = (
    ("inference", "after-relay:2"),
    ("learner", "after-mirror-blobs"),
    ("learner", "after-mirror-head"),
)
BACK = ("after-reset", "before-tensor-fsync", "after-tensor-rename")
"""Points that an order to go back passes."""
QUIET = ("after-bless",)
"""Points that are passed when nobody judges."""


def test_every_crash_point_is_exercised() -> None:
    assert sorted(point.partition(":")[0] for _, point in (*EMBEDDED, *DISTRIBUTED)) == sorted(crash.POINTS)


def test_the_embedded_loop_survives_a_crash_at_every_point(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    survive(settings, EMBEDDED)


def test_the_distributed_loop_survives_a_crash_of_relay_and_mirror(tmp_path: Path) -> None:
    kafka, valkey = KafkaServer(tmp_path / "kafka"), ValkeyServer(tmp_path / "valkey")
    try:
        kafka.start()
        valkey.start()
        settings = tiny_settings(tmp_path, events_url=f"kafka://{kafka.bootstrap}/ledger", weights_url=valkey.url, topic_partitions=2)
        survive(settings, DISTRIBUTED)
        with open_store(settings.weights) as redis:
            assert redis.head() == DirectoryStore(settings.data / "weights").head()
    finally:
        valkey.kill()
        kafka.kill()


def survive(settings: Settings, chain: tuple[tuple[str, str], ...]) -> None:
    running = Running(settings, services=("learner", "inference"))
    running.start()
    try:
        with thumbs(running) as (ledger, judging):
            for victim, point in chain:
                die(running, victim, point, judging)
                enough = len(ledger) + 3
                wait_for(lambda enough=enough: len(ledger) >= enough, f"feedback flows after {point}")  # type: ignore[misc]
        for prediction_id, feedback_id in ledger:
            wait_for(lambda p=prediction_id, f=feedback_id: told(running, p, f), f"{feedback_id} settles")  # type: ignore[misc]
        version = running.wait_settled()
        assert version == head_of(settings)
    finally:
        running.stop()
    assert_in_one_standing_row(running, ledger)
    assert_journal_explains_weights(running)


def die(running: Running, victim: str, point: str, judging: threading.Event) -> None:
    """Start the victim armed, do what passes the point until it is dead, and start it again."""
    name = point.partition(":")[0]
    running.processes.kill(victim)
    armed = Loop(running.settings, services=(victim,), environment={crash.ARMED: point})
    armed.launch(victim)
    process = armed.processes[victim]
    try:
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

        wait_for(dead, f"the {victim} dies {point}")
        assert process.returncode == -signal.SIGKILL, armed.log(victim).read_text()[-2000:]
    finally:
        process.kill()
        process.wait()
        judging.set()
    running.processes.restart(victim)


@contextmanager
def thumbs(running: Running) -> Iterator[tuple[Ledger, threading.Event]]:
    """Thumbs, one after the other, while the event is set; each is sent again until it is acknowledged, whatever dies meanwhile."""
    ledger: Ledger = []
    done, judging = threading.Event(), threading.Event()
    judging.set()

    def give() -> None:
        while not done.wait(0.05):
            if not judging.is_set():
                continue
            feedback_id = str(uuid.uuid4())
            prediction = None
            while not done.is_set():
                with suppress(Unavailable, Overloaded):
                    prediction = prediction or running.client.predict(f"film {len(ledger)} was fine")
                    ack = running.client.feedback(prediction, ("up", "down")[len(ledger) % 2], feedback_id=feedback_id)
                    assert ack.status in (ACK_STATUS_ACCEPTED, ACK_STATUS_DUPLICATE), ack
                    ledger.append((prediction.prediction_id, feedback_id))
                    break

    giver = threading.Thread(target=give)
    giver.start()
    try:
        yield ledger, judging
    finally:
        done.set()
        giver.join()


def told(running: Running, prediction_id: str, feedback_id: str) -> bool:
    """What became of it is final."""
    with suppress(LiveloopError):
        return settled(running, prediction_id, feedback_id)
    return False


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
