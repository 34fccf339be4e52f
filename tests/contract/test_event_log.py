"""What every event log must do, on a file and on a real Kafka."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from liveloop.events import EventLog, LogTruncated, Record, open_log
from liveloop.settings import Settings
from liveloop.v1.events_pb2 import Event, Feedback, FeedbackEvent, Input, PodReport, PredictionEvent

Open = Callable[[], EventLog]


@pytest.fixture(params=["sqlite", "kafka"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens this test's own log; each call is another reader or writer of it."""
    url = f"sqlite:///{tmp_path}/events.db"
    if request.param == "kafka":
        url = f"kafka://{request.getfixturevalue('kafka')}/test-{uuid.uuid4().hex}"
    logs: list[EventLog] = []

    def open_it() -> EventLog:
        logs.append(open_log(Settings(data=tmp_path, events_url=url, topic_partitions=3)))
        return logs[-1]

    yield open_it
    for log in logs:
        log.close()


def prediction(number: int, text: str = "") -> Event:
    return Event(prediction=PredictionEvent(prediction_id=f"prediction-{number}", input=Input(text=text), label="positive"))


def feedback(number: int, feedback_id: str) -> Event:
    return Event(feedback=FeedbackEvent(feedback=Feedback(prediction_id=f"prediction-{number}", feedback_id=feedback_id, rating=1.0)))


def read_all(log: EventLog, positions: dict[int, int] | None = None, *, limit: int = 100) -> list[Record]:
    """Read from `positions` (moved along) until every partition is at its end."""
    positions = {} if positions is None else positions
    records: list[Record] = []
    deadline = time.monotonic() + 30
    while True:
        page = log.read(positions, limit=limit, timeout=0.5)
        records += page.records
        positions.update((record.partition, record.position + 1) for record in page.records)
        if page.at_end == frozenset(log.partitions):
            return records
        assert time.monotonic() < deadline, "the end was never reached"


def events_of(records: Sequence[Record]) -> list[Event]:
    return [event for record in records for event in record.events]


def key(event: Event) -> str:
    return event.prediction.prediction_id or event.feedback.feedback.feedback_id


def test_what_was_appended_is_read_by_another_reader_unchanged(opened: Open) -> None:
    sent = [prediction(1, "ünïcode and \x00"), feedback(1, "a"), Event(pod_report=PodReport(pod="pod-1", version=7))]
    opened().append(sent)

    read = events_of(read_all(opened()))

    assert sorted(event.SerializeToString() for event in read) == sorted(event.SerializeToString() for event in sent)


def test_an_empty_log_is_at_its_end_in_every_partition(opened: Open) -> None:
    log = opened()

    page = log.read({}, limit=10, timeout=0.05)

    assert page.records == []
    assert page.at_end == frozenset(log.partitions)


def test_the_order_within_a_partition_is_the_order_of_appending(opened: Open) -> None:
    log = opened()
    for number in range(20):
        log.append([feedback(number % 4, f"{number:02}-{half}") for half in (0, 1)])

    for partition in log.partitions:
        ids = [key(event) for record in read_all(log) if record.partition == partition for event in record.events]
        assert ids == sorted(ids)


def test_positions_within_a_partition_only_grow(opened: Open) -> None:
    log = opened()
    for number in range(20):
        log.append([prediction(number)])

    records = read_all(log)

    for partition in log.partitions:
        positions = [record.position for record in records if record.partition == partition]
        assert positions == sorted(set(positions))


def test_all_events_of_one_prediction_are_in_one_partition(opened: Open) -> None:
    log = opened()
    for number in range(12):
        log.append([prediction(number)])
        log.append([feedback(number, f"{number}-{judge}") for judge in range(3)])

    partitions: dict[str, set[int]] = {}
    for record in read_all(log):
        for event in record.events:
            owner = event.prediction.prediction_id or event.feedback.feedback.prediction_id
            partitions.setdefault(owner, set()).add(record.partition)

    assert len(partitions) == 12
    assert all(len(found) == 1 for found in partitions.values())


def test_events_larger_than_one_record_all_arrive_in_order(opened: Open) -> None:
    log = opened()
    log.append([Event(prediction=PredictionEvent(prediction_id="same", input=Input(text="x" * 100_000), version=v)) for v in range(8)])

    assert [event.prediction.version for event in events_of(read_all(log))] == list(range(8))


def test_reading_goes_on_from_a_position(opened: Open) -> None:
    writer, positions = opened(), {}
    writer.append([prediction(number) for number in range(9)])
    read_all(opened(), positions)
    writer.append([prediction(100)])

    assert [key(event) for event in events_of(read_all(opened(), positions))] == ["prediction-100"]


def test_one_reader_can_go_back(opened: Open) -> None:
    log = opened()
    log.append([prediction(number) for number in range(9)])

    first, second = read_all(log), read_all(log)

    assert sorted(map(key, events_of(first))) == sorted(map(key, events_of(second)))


def test_a_limited_read_says_that_more_is_there(opened: Open) -> None:
    log = opened()
    for _ in range(5):
        log.append([prediction(1)])

    page = log.read({}, limit=2, timeout=5)

    assert 1 <= len(page.records) <= 2
    assert page.records[0].partition not in page.at_end
    assert len(read_all(log, limit=2)) == 5


def test_a_reader_that_waits_wakes_up_when_something_comes(opened: Open) -> None:
    log, writer = opened(), opened()
    read_all(log)
    appended = threading.Timer(0.3, lambda: writer.append([prediction(1)]))
    appended.start()

    page = log.read({}, limit=10, timeout=30)
    appended.join()

    assert [key(event) for event in events_of(page.records)] == ["prediction-1"]


def test_what_was_appended_before_a_read_is_never_behind_its_end(opened: Open) -> None:
    log, writer, positions = opened(), opened(), {}
    read_all(log, positions)
    for number in range(30):
        writer.append([prediction(number)])
        assert [key(event) for event in events_of(read_all(log, positions))] == [f"prediction-{number}"]


def test_concurrent_writers_lose_nothing(opened: Open) -> None:
    def write(log: EventLog, name: int) -> None:
        for number in range(25):
            log.append([feedback(number, f"{name}-{number}")])

    writers = [threading.Thread(target=write, args=(opened(), name)) for name in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    ids = [key(event) for event in events_of(read_all(opened()))]
    assert sorted(ids) == sorted(f"{name}-{number}" for name in range(3) for number in range(25))


def test_a_log_opened_again_continues(opened: Open) -> None:
    first, positions = opened(), {}
    first.append([prediction(1)])
    read_all(first, positions)
    first.close()

    again = opened()
    again.append([prediction(2)])

    assert [key(event) for event in events_of(read_all(again, positions))] == ["prediction-2"]


def test_releasing_keeps_what_was_not_read(opened: Open) -> None:
    log, positions = opened(), {}
    log.append([prediction(number) for number in range(9)])
    read_all(log, positions)
    log.append([prediction(100)])
    log.release(positions)

    assert [key(event) for event in events_of(read_all(opened(), positions))] == ["prediction-100"]


def test_a_position_beyond_the_end_is_an_error_and_not_silence(opened: Open) -> None:
    log = opened()
    log.append([prediction(1)])

    with pytest.raises(LogTruncated) as raised:
        log.read(dict.fromkeys(log.partitions, 1_000_000), limit=10, timeout=5)
    assert {gap.partition: gap.start for gap in raised.value.gaps} == dict.fromkeys(log.partitions, 1_000_000)
    assert all(gap.end <= 1 for gap in raised.value.gaps)  # the first record there is


def test_reading_goes_on_behind_a_gap(opened: Open) -> None:
    log = opened()
    log.append([prediction(1)])
    with pytest.raises(LogTruncated) as raised:
        log.read(dict.fromkeys(log.partitions, 1_000_000), limit=10, timeout=5)
    positions = {gap.partition: gap.end for gap in raised.value.gaps}
    assert [key(event) for event in events_of(read_all(log, positions))] == ["prediction-1"]


def test_what_cannot_be_decoded_is_passed_on_byte_for_byte(opened: Open) -> None:
    log = opened()
    log.append([prediction(1)], [b"\xff\x00", b""])
    records = read_all(log, {})
    assert sorted(record.content for record in records if record.fault) == [b"", b"\xff\x00"]
    assert [key(event) for event in events_of(records)] == ["prediction-1"]
