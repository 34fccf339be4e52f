"""Taking events in: durable, in groups, shed in order."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest
from event_samples import feedback, prediction

from liveloop.errors import Misconfigured, Overloaded, Unavailable
from liveloop.events import open_intake, open_log
from liveloop.events.intake import Intake
from liveloop.events.sqlite import SqliteLog, Verdict
from liveloop.settings import Settings
from liveloop.telemetry import counter, gauge
from liveloop.v1.events_pb2 import Event
from tests.servers import wait_until


def stored(path: Path) -> list[Event]:
    with SqliteLog(path) as log:
        return [event for record in log.read({}, limit=100_000, timeout=0).records for event in record.events]


def test_a_feedback_is_on_disk_when_its_future_resolves(tmp_path: Path) -> None:
    intake = Intake(SqliteLog(tmp_path / "events.db"))

    assert intake.accept(feedback(1)).result(30) is Verdict.ACCEPTED
    assert stored(tmp_path / "events.db") == [feedback(1)]
    assert intake.accept(feedback(1)).result(30) is Verdict.DUPLICATE
    assert intake.accept(feedback(1, rating=0.0)).result(30) is Verdict.CONFLICT
    intake.close(0)


def test_what_was_offered_is_stored_in_order_and_before_close_returns(tmp_path: Path) -> None:
    intake = Intake(SqliteLog(tmp_path / "events.db"))

    assert all(intake.offer(prediction(number)) for number in range(2000))

    assert intake.close(0) == 0
    assert stored(tmp_path / "events.db") == [prediction(number) for number in range(2000)]


def test_what_comes_while_the_disk_is_busy_shares_one_commit(tmp_path: Path) -> None:
    intake = Intake(SqliteLog(tmp_path / "events.db"))
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    results = [intake.accept(feedback(number)) for number in range(200)]
    other.execute("COMMIT")
    other.close()

    assert {result.result(30) for result in results} == {Verdict.ACCEPTED}
    with SqliteLog(tmp_path / "events.db") as log:
        assert len(log.read({}, limit=1000, timeout=0).records) <= 2
    intake.close(0)


def test_predictions_are_shed_first_and_feedback_only_when_the_log_is_full(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "events.db", capacity=400_000)
    intake = Intake(log)
    shed = counter("outbox_shed_total")._value.get()
    number = 0
    while intake.offer(prediction(number, text="x" * 1000)):
        number += 1
        intake.accept(feedback(number)).result(30)

    assert intake.full()
    assert 0.9 <= log.fill < 1
    assert counter("outbox_shed_total")._value.get() == shed + 1
    assert intake.accept(feedback(number + 1)).result(30) is Verdict.ACCEPTED

    with pytest.raises(Overloaded):
        for extra in range(100_000):
            intake.accept(feedback(number + 2 + extra, "x" * 1000)).result(30)
    intake.close(0)


def test_a_log_that_was_emptied_by_its_reader_takes_predictions_again(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "events.db", capacity=400_000, window=0)
    intake = Intake(log)
    while intake.offer(prediction(1, text="x" * 1000)):
        intake.accept(feedback(1)).result(30)
    with SqliteLog(tmp_path / "events.db", window=0) as reader:
        last = reader.read({}, limit=100_000, timeout=0).records[-1].position
        reader.release({0: last + 1})

    wait_until(lambda: not intake.full())
    assert intake.offer(prediction(2))
    intake.close(0)


def test_a_commit_that_fails_reaches_those_who_wait_and_the_next_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SqliteLog(tmp_path / "events.db")
    intake = Intake(log)

    def fail(_: object) -> None:
        raise Unavailable("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(log, "store", fail)
        with pytest.raises(Unavailable, match="the disk is gone"):
            intake.accept(feedback(1)).result(30)

    assert intake.accept(feedback(1)).result(30) is Verdict.ACCEPTED
    intake.close(0)


def test_a_caller_that_gives_up_takes_nothing_back(tmp_path: Path) -> None:
    intake = Intake(SqliteLog(tmp_path / "events.db"))
    result = intake.accept(feedback(1))

    assert not result.cancel()
    assert result.result(30) is Verdict.ACCEPTED
    intake.close(0)


def test_after_close_feedback_is_refused_and_predictions_are_shed(tmp_path: Path) -> None:
    intake = Intake(SqliteLog(tmp_path / "events.db"))
    intake.close(0)

    with pytest.raises(Unavailable):
        intake.accept(feedback(1))
    assert not intake.offer(prediction(1))


def test_the_gauges_show_how_full_the_log_is_and_how_far_its_reader_is_behind(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "events.db", capacity=1 << 20)
    intake = Intake(log)
    intake.accept(feedback(1)).result(30)

    wait_until(lambda: gauge("outbox_oldest_event_timestamp_seconds")._value.get() > 1e9)
    assert gauge("outbox_bytes")._value.get() == log.used_bytes
    assert gauge("outbox_capacity_bytes")._value.get() == 1 << 20

    log.release({0: 2})
    wait_until(lambda: gauge("outbox_oldest_event_timestamp_seconds")._value.get() == 0)
    intake.close(0)


def test_reader_and_writer_meet_in_the_file_that_the_settings_name(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    intake = open_intake(settings)
    intake.accept(feedback(1)).result(30)

    with open_log(settings) as log:
        assert [list(record.events) for record in log.read({}, limit=1, timeout=5).records] == [[feedback(1)]]
    intake.close(0)


def test_kafka_without_its_client_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kafka", None)
    monkeypatch.delitem(sys.modules, "liveloop.events.kafka", raising=False)
    settings = Settings(events_url="kafka://127.0.0.1:1/topic", data=tmp_path)
    for opens in (open_log, open_intake):
        with pytest.raises(Misconfigured, match=r"liveloop\[kafka\]"):
            opens(settings)


@pytest.mark.parametrize(
    "url", ["sqlite://host/file", "sqlite:///", "kafka://host:1", "kafka:///topic", "kafka://host/topic", "http://x/y"]
)
def test_a_url_that_names_no_log_is_refused_in_one_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(Misconfigured):
        open_log(Settings(data=tmp_path, events_url=url))
