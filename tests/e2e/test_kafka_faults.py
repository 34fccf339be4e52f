"""Whatever happens to Kafka or on the way to it, feedback is taken all the while, nothing is lost, and it joins in order afterwards."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from liveloop.errors import Unavailable
from liveloop.events import EventLog, open_intake, open_log
from liveloop.events.intake import Intake
from liveloop.events.sqlite import Verdict
from liveloop.settings import Settings
from liveloop.v1.events_pb2 import Event
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from tests.chaos.network import Fault, FaultyNetwork
from tests.kafka_servers import KafkaCluster, KafkaServer, Listener
from tests.servers import free_port, wait_until
from tests.unit.test_joiner import feedback, prediction, prediction_id

MARK = b"negative"
"""What every prediction says; a byte of it changes where the network corrupts what passes."""
PATIENCE = 90.0
HELD = 2.0
"""Seconds for which a fault lasts beyond the moment in which more was taken in meanwhile."""


class Reader:
    """A learner's reading half: goes on from the positions in its journal, through whatever happens."""

    def __init__(self, folder: Path, log: EventLog) -> None:
        self._log = log
        self._journal = Journal(folder / "learner.db", holder="reader")
        assert self._journal.acquire(0)
        self._joiner = Joiner(self._journal.db, labels=("negative", "positive"), window=86_400.0)
        self.order: dict[int, list[str]] = {}  # by partition, ids of feedback as each came first
        self._seen: set[str] = set()
        self.troubles: list[str] = []

    def read(self) -> None:
        """One round."""
        try:
            page = self._log.read(self._journal.positions(), limit=500, timeout=0.2)
        except Unavailable as error:
            self.troubles.append(error.reason)
            return
        self._journal.renew()
        self._journal.ingest(page, self._joiner)
        for record in page.records:
            for event in record.events:
                name = event.feedback.feedback.feedback_id
                if name and name not in self._seen:
                    self._seen.add(name)
                    self.order.setdefault(record.partition, []).append(name)

    def read_until(self, count: int) -> None:
        """Until this many different feedbacks came."""
        deadline = time.monotonic() + PATIENCE
        while len(self._seen) < count:
            assert time.monotonic() < deadline, (count, len(self._seen), self.troubles[-3:])
            self.read()

    def joined(self) -> int:
        """Feedbacks that found their prediction."""
        joined = (State.FEEDBACK_STATE_JOINED, State.FEEDBACK_STATE_HELD_OUT)
        return int(self._journal.db.execute("SELECT count(*) FROM feedback WHERE state IN (?, ?)", joined).fetchone()[0])

    def close(self) -> None:
        self._journal.db.close()


class Sender:
    """A pod's taking-in half: predictions, and a feedback on each, as fast as a busy pod's."""

    def __init__(self, intake: Intake) -> None:
        self.results: list[Future[Verdict]] = []
        self._intake = intake
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.is_set():
            for event in self._pair(len(self.results)):
                if event.WhichOneof("event") == "prediction":
                    assert self._intake.offer(event)
                else:
                    self.results.append(self._intake.accept(event))
            self._done.wait(0.01)

    @staticmethod
    def _pair(number: int) -> tuple[Event, Event]:
        one = str(uuid.UUID(int=_FIRST.int + number))
        return prediction(one), feedback(one, f"{number:06}", "up", 1.0)

    def wait_for_more(self, count: int) -> None:
        """Until this many more were acknowledged, whatever happens elsewhere."""
        enough = len(self.results) + count
        wait_until(lambda: len(self.results) >= enough and self.results[enough - 1].done(), timeout=PATIENCE)

    def stop(self) -> int:
        """How many were sent, every one acknowledged."""
        self._done.set()
        self._thread.join()
        wait(self.results, timeout=PATIENCE)
        assert all(result.result(0) is Verdict.ACCEPTED for result in self.results)
        return len(self.results)


_FIRST = uuid.UUID(prediction_id(0))


@pytest.fixture(scope="module")
def network_and_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultyNetwork, KafkaServer]]:
    """A broker that clients reach through a network which can fail."""
    inside, outside = free_port(), free_port()
    broker = KafkaServer(tmp_path_factory.mktemp("faulty"), listeners=[Listener("PASSED", "PLAINTEXT", inside, outside)])
    with FaultyNetwork(outside, inside, marked=MARK) as network:
        broker.start()
        yield network, broker
        broker.kill()


class Trouble:
    """The faults by name: each begins, and its end is given back."""

    def __init__(self, network: FaultyNetwork, broker: KafkaServer) -> None:
        self._network, self._broker = network, broker

    def killed(self) -> Callable[[], None]:
        self._broker.kill()
        return self._broker.start

    def restarted(self) -> Callable[[], None]:
        self._broker.stop()
        return self._broker.start

    def paused(self) -> Callable[[], None]:
        self._broker.pause()
        return self._broker.resume

    def cut(self) -> Callable[[], None]:
        self._network.cut()
        return self._network.cut

    def _fault(self, fault: Fault) -> Callable[[], None]:
        self._network.fault = fault
        return lambda: setattr(self._network, "fault", Fault.NONE)

    def refused(self) -> Callable[[], None]:
        return self._fault(Fault.REFUSED)

    def slow(self) -> Callable[[], None]:
        return self._fault(Fault.SLOW)

    def half_open(self) -> Callable[[], None]:
        return self._fault(Fault.HALF_OPEN)

    def corrupted(self) -> Callable[[], None]:
        return self._fault(Fault.CORRUPTED)


def settings_for(folder: Path, servers: str) -> Settings:
    return Settings(data=folder, events_url=f"kafka://{servers}/test-{uuid.uuid4().hex}", topic_partitions=3)


def survives(settings: Settings, folder: Path, begin: Callable[[], Callable[[], None]]) -> Reader:
    """Send and read while a fault begins and ends; nothing may be lost, change places or stay behind."""
    with ExitStack() as stack:
        intake = open_intake(settings)
        reader = stack.enter_context(closing(Reader(folder, stack.enter_context(open_log(settings)))))
        sender = Sender(intake)
        try:
            reader.read_until(30)
            end = begin()
            try:
                sender.wait_for_more(100)
                until = time.monotonic() + HELD
                while time.monotonic() < until:
                    reader.read()
            finally:
                end()
            sender.wait_for_more(20)
        finally:
            sent = sender.stop()
        reader.read_until(sent)
        reader.read()
        assert all(own == sorted(own) for own in reader.order.values())
        assert sorted(name for own in reader.order.values() for name in own) == [f"{number:06}" for number in range(sent)]
        assert reader.joined() == sent
        assert intake.close(PATIENCE) == 0
    return reader


NIGHTLY = [pytest.param(fault, marks=pytest.mark.nightly) for fault in ("restarted", "refused")]


@pytest.mark.parametrize("fault", ["killed", "paused", "cut", "slow", "half_open", "corrupted", *NIGHTLY])
def test_what_was_acknowledged_arrives_once_and_in_order(
    network_and_broker: tuple[FaultyNetwork, KafkaServer], tmp_path: Path, fault: str
) -> None:
    network, broker = network_and_broker
    changed = network.changed
    settings = settings_for(tmp_path / "data", f"127.0.0.1:{network.port}")

    reader = survives(settings, tmp_path, getattr(Trouble(network, broker), fault))

    if fault in ("killed", "restarted", "paused", "refused", "half_open"):
        assert reader.troubles
    assert (network.changed > changed) == (fault == "corrupted")


def test_one_of_three_brokers_may_die_and_of_the_other_two_none(tmp_path: Path) -> None:
    with KafkaCluster(tmp_path / "cluster") as cluster:
        settings = settings_for(tmp_path / "data", cluster.bootstrap)

        def one_dies() -> Callable[[], None]:
            cluster.brokers[0].kill()
            return lambda: None

        survives(settings, tmp_path, one_dies)
