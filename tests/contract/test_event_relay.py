"""From an outbox to a real Kafka that comes and goes: nothing acknowledged is lost, and order within a partition stays."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from liveloop.errors import Unavailable
from liveloop.events import EventLog, open_intake, open_log
from liveloop.events.sqlite import SqliteLog, Verdict
from liveloop.settings import Settings
from liveloop.v1.events_pb2 import Event, Feedback, FeedbackEvent
from tests.kafka_servers import KafkaServer
from tests.servers import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker of this module's own, because these tests stop it."""
    server = KafkaServer(tmp_path_factory.mktemp("own-kafka"))
    yield server
    server.kill()


@pytest.fixture
def broker(server: KafkaServer) -> KafkaServer:
    """The broker, running."""
    if not server.running:
        server.start()
    return server


def settings_for(folder: Path, server: KafkaServer, *, topic: str = "", ack: str = "local") -> Settings:
    url = f"kafka://{server.bootstrap}/{topic or f'test-{uuid.uuid4().hex}'}"
    return Settings.model_validate({"data": folder, "events_url": url, "topic_partitions": 3, "ack": ack})


def feedback(number: int) -> Event:
    return Event(
        feedback=FeedbackEvent(feedback=Feedback(prediction_id=f"prediction-{number % 5}", feedback_id=f"{number:05}", rating=1.0))
    )


def ids(log: EventLog, *, expected: int) -> dict[int, list[str]]:
    """Ids by partition, in the order in which each came first, once `expected` different ones have been read."""
    found: dict[int, list[str]] = {}
    positions: dict[int, int] = {}

    def enough() -> bool:
        for record in log.read(positions, limit=100, timeout=0.5).records:
            positions[record.partition] = record.position + 1
            own = found.setdefault(record.partition, [])
            own += [i for event in record.events if (i := event.feedback.feedback.feedback_id) not in own]
        return sum(map(len, found.values())) >= expected

    wait_until(enough, timeout=60)
    return found


def assert_all_in_order(log: EventLog, numbers: range) -> None:
    found = ids(log, expected=len(numbers))
    assert sorted(i for own in found.values() for i in own) == [f"{number:05}" for number in numbers]
    assert all(own == sorted(own) for own in found.values())


def accepted(results: list[Future[Verdict]]) -> bool:
    wait(results, timeout=60)
    return all(result.result(0) is Verdict.ACCEPTED for result in results)


def test_a_broker_away_at_the_start_costs_nothing_acknowledged(server: KafkaServer, tmp_path: Path) -> None:
    server.stop()
    settings = settings_for(tmp_path, server)
    intake, log = open_intake(settings), open_log(settings)

    assert accepted([intake.accept(feedback(number)) for number in range(40)])
    with pytest.raises(Unavailable):
        log.read({}, limit=10, timeout=0.1)
    server.start()

    assert_all_in_order(log, range(40))
    assert intake.close(30) == 0
    log.close()


def test_a_broker_killed_in_flight_costs_nothing_acknowledged(broker: KafkaServer, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, broker)
    intake, log = open_intake(settings), open_log(settings)
    results: list[Future[Verdict]] = []
    done = threading.Event()

    def keep_sending() -> None:
        while not done.is_set():
            results.append(intake.accept(feedback(len(results))))
            done.wait(0.005)

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        ids(log, expected=50)
        broker.kill()
        with pytest.raises(Unavailable):
            while True:
                log.read({}, limit=10, timeout=0.1)
        broker.start()
        sent = len(results)
        wait_until(lambda: len(results) > sent + 100)
    finally:
        done.set()
        sender.join()

    assert accepted(results)
    assert_all_in_order(log, range(len(results)))
    assert intake.close(30) == 0
    log.close()


def test_a_broker_that_hangs_is_unavailable_and_then_back(broker: KafkaServer, tmp_path: Path) -> None:
    with open_log(settings_for(tmp_path, broker)) as log:
        log.append([feedback(0)])
        broker.pause()
        try:
            with pytest.raises(Unavailable):
                log.append([feedback(1)])
            with pytest.raises(Unavailable):
                log.read({}, limit=10, timeout=0.1)
        finally:
            broker.resume()

        wait_until(lambda: appended(log, feedback(2)))
        found = ids(log, expected=2)
        assert {"00000", "00002"} <= {i for own in found.values() for i in own}


def appended(log: EventLog, event: Event) -> bool:
    try:
        log.append([event])
    except Unavailable:
        return False
    return True


def test_attempts_to_reach_a_broker_that_is_away_leave_no_threads_behind(server: KafkaServer, tmp_path: Path) -> None:
    server.stop()
    with open_log(settings_for(tmp_path, server)) as log:
        before = threading.active_count()
        for _ in range(2):
            with pytest.raises(Unavailable):
                log.read({}, limit=10, timeout=0.1)
            with pytest.raises(Unavailable):
                log.append([feedback(1)])
        assert threading.active_count() == before


def test_acknowledging_after_the_broker_waits_for_the_broker(server: KafkaServer, tmp_path: Path) -> None:
    server.stop()
    settings = settings_for(tmp_path, server, ack="broker")
    intake = open_intake(settings)
    first, second = intake.accept(feedback(1)), intake.accept(feedback(1))
    with SqliteLog(tmp_path / "outbox" / "0.db") as outbox:
        wait_until(lambda: outbox.waiting == 1)
    assert not first.done()
    assert not second.done()

    server.start()

    assert first.result(60) is Verdict.ACCEPTED
    assert second.result(60) is Verdict.DUPLICATE
    assert intake.accept(feedback(1)).result(30) is Verdict.DUPLICATE
    intake.close(10)
    again = open_intake(settings)
    assert again.accept(feedback(1)).result(30) is Verdict.DUPLICATE
    again.close(10)


def test_closing_without_a_broker_tells_what_is_left_and_the_next_process_delivers_it(server: KafkaServer, tmp_path: Path) -> None:
    server.stop()
    settings = settings_for(tmp_path, server, ack="broker")
    intake = open_intake(settings)
    waiting = [intake.accept(feedback(number)) for number in range(7)]
    with SqliteLog(tmp_path / "outbox" / "0.db") as outbox:
        wait_until(lambda: outbox.waiting == 7)

    assert intake.close(0.1) == 7
    for result in waiting:
        with pytest.raises(Unavailable):
            result.result(0)

    server.start()
    other = open_intake(settings)
    with open_log(settings) as log:
        assert_all_in_order(log, range(7))
    other.close(30)


def test_an_outbox_that_nobody_holds_is_delivered_by_whoever_is_there(broker: KafkaServer, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, broker)
    for number in (3, 8):
        with SqliteLog(tmp_path / "outbox" / f"{number}.db") as left_behind:
            left_behind.write([feedback(number)])
    (tmp_path / "outbox" / "5.db").write_bytes(b"not a database" * 100)

    intake = open_intake(settings)

    with open_log(settings) as log:
        found = ids(log, expected=2)
        assert {i for own in found.values() for i in own} == {"00003", "00008"}
    for number in (3, 8):
        with SqliteLog(tmp_path / "outbox" / f"{number}.db") as drained:
            wait_until(lambda drained=drained: drained.waiting == 0)
    intake.close(30)


def test_two_intakes_in_one_folder_have_an_outbox_each(broker: KafkaServer, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, broker)
    intakes = [open_intake(settings) for _ in range(2)]
    for number, intake in enumerate(intakes):
        assert intake.accept(feedback(number)).result(30) is Verdict.ACCEPTED

    assert sorted(path.name for path in (tmp_path / "outbox").glob("*.db")) == ["0.db", "1.db"]
    with open_log(settings) as log:
        ids(log, expected=2)
    assert [intake.close(30) for intake in intakes] == [0, 0]
    assert all(path.stat().st_size > 0 for path in (tmp_path / "outbox").glob("*.db"))


def test_a_topic_that_is_there_keeps_its_partitions(broker: KafkaServer, tmp_path: Path) -> None:
    topic = f"test-{uuid.uuid4().hex}"
    with open_log(settings_for(tmp_path, broker, topic=topic)) as first:
        first.append([feedback(1)])
    other = settings_for(tmp_path, broker, topic=topic).model_copy(update={"topic_partitions": 11})

    with open_log(other) as log:
        log.append([feedback(2)])
        assert log.partitions == range(3)
        ids(log, expected=2)
