"""Records in which something cannot be used: set aside byte for byte, once, and read again when that can be done."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_joiner import prediction, prediction_id

from liveloop import NotFound, NotNow
from liveloop.events import Page, Record
from liveloop.events.codec import encode, record_of
from liveloop.events.faults import KINDS, fault_of
from liveloop.telemetry import _CLOSED, counter
from liveloop.v1.events_pb2 import (
    THUMB_UP,
    ChannelReport,
    Event,
    ExampleEvent,
    Feedback,
    FeedbackEvent,
    Input,
    PodReport,
    PredictionEvent,
)
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner import dead_letters as dead_letters_module
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from tests.unit.test_operator import ANN, Led

OF = prediction_id(0)
GOOD = [prediction(OF), Event(feedback=FeedbackEvent(feedback=Feedback(prediction_id=OF, feedback_id="f", thumb=THUMB_UP), judge=b"j"))]


def said(**changes: object) -> Event:
    feedback = {"prediction_id": prediction_id(1), "feedback_id": "f", "rating": 1.0, **changes}
    return Event(feedback=FeedbackEvent(feedback=Feedback(**feedback), judge=b"j"))  # type: ignore[arg-type]


def at(seconds: int, nanos: int = 0) -> Event:
    event = said()
    event.feedback.accepted_at.seconds, event.feedback.accepted_at.nanos = seconds, nanos
    return event


def answered(**changes: object) -> Event:
    fields = {"prediction_id": prediction_id(1), "input": Input(text="fine"), "score": 0.5, **changes}
    return Event(prediction=PredictionEvent(**fields))  # type: ignore[arg-type]


MALFORMED = {
    "no kind": (Event(), "kind"),
    "no prediction id": (said(prediction_id=""), "id"),
    "a prediction id that is no UUID": (said(prediction_id="prediction-1"), "id"),
    "a prediction id that is no UUIDv7": (answered(prediction_id="0b0f8d0e-9a3b-4c61-8e57-3f7a7c1d9a44"), "id"),
    "a prediction id of a megabyte": (said(prediction_id="0" * (1 << 20)), "id"),
    "no feedback id": (said(feedback_id=""), "id"),
    "no judge": (Event(feedback=FeedbackEvent(feedback=Feedback(prediction_id=prediction_id(1), feedback_id="f", rating=1.0))), "id"),
    "a feedback id of a megabyte": (said(feedback_id="0" * (1 << 20)), "id"),
    "an example without an id": (Event(example=ExampleEvent(input=Input(text="x"), label="negative")), "id"),
    "a pod without a name": (Event(pod_report=PodReport(version=1)), "id"),
    "a rating that is no number": (said(rating=float("nan")), "number"),
    "a rating of three": (said(rating=3.0), "number"),
    "a thumb that points nowhere": (said(thumb=7), "number"),
    "a score that is no number": (answered(score=float("nan")), "number"),
    "an endless propensity": (answered(propensity=float("inf")), "number"),
    "a count above all numbers of a table": (Event(pod_report=PodReport(pod="p", channels=[ChannelReport(answered=1 << 63)])), "number"),
    "endless seconds": (Event(pod_report=PodReport(pod="p", channels=[ChannelReport(seconds=float("inf"))])), "number"),
    "a time before 1970": (at(-1), "time"),
    "a time after everything": (at(1 << 40), "time"),
    "nanoseconds that are a second": (at(1, 1_500_000_000), "time"),
    "an input of a kind unknown here": (answered(input=Input()), "text"),
    "an input over the limit": (answered(input=Input(text="x" * (5 << 20))), "text"),
    "a label of a megabyte": (answered(label="x" * (1 << 20)), "text"),
    "a comment of a megabyte": (said(comment="x" * (1 << 20)), "text"),
    "a thousand reasons": (said(reasons=["x"] * 1000), "text"),
    "a reason of a megabyte": (said(reasons=["x" * (1 << 20)]), "text"),
}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "learner.db", holder="test")
    assert journal.acquire(1)
    yield journal
    journal.close()


def joiner_of(journal: Journal) -> Joiner:
    return Joiner(journal.db, labels=["negative", "positive"], window=1e12)


def ingest(journal: Journal, content: bytes, position: int = 0) -> Record:
    record = record_of(0, position, content)
    journal.ingest(Page([record], frozenset()), joiner_of(journal))
    return record


def letters(journal: Journal) -> list[tuple[int, bytes]]:
    return journal.db.execute("SELECT position, content FROM dead_letters ORDER BY id").fetchall()


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_event_is_set_aside_with_its_record_and_its_neighbours_are_taken(journal: Journal, name: str) -> None:
    event, kind = MALFORMED[name]
    before = counter("dead_letters_total").labels(kind)._value.get()
    record = ingest(journal, encode([GOOD[0], event, GOOD[1]]), 41)

    assert letters(journal) == [(41, record.content)]
    assert counter("dead_letters_total").labels(kind)._value.get() == before + 1
    assert journal.db.execute("SELECT prediction_id FROM feedback").fetchall() == [(OF,)]
    assert journal.positions() == {0: 42}


@pytest.mark.parametrize(("content", "kind"), [(b"\xff\xff\xff", "undecodable"), (b"", "format"), (b"\x08\x09", "format")])
def test_a_record_that_is_no_batch_is_set_aside_byte_for_byte(journal: Journal, content: bytes, kind: str) -> None:
    record = ingest(journal, content, 7)
    assert record.fault
    assert record.fault.kind == kind
    assert letters(journal) == [(7, content)]
    assert journal.positions() == {0: 8}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 160))
def test_no_bytes_make_ingesting_raise(journal: Journal, noise: bytes, cut: int) -> None:
    content = encode(GOOD)
    changed = content[:cut] + noise + content[cut + len(noise) :]
    journal.db.execute("PRAGMA synchronous = OFF")  # a crash is not what is tested here
    journal.ingest(Page([record_of(0, number, one) for number, one in enumerate((noise, changed))], frozenset()), joiner_of(journal))
    assert journal.positions() == {0: 2}


def test_the_letter_and_the_position_are_one_transaction(journal: Journal) -> None:
    class Broken(Joiner):
        def resolve(self) -> None:
            raise sqlite3.IntegrityError("the process ends here")

    with pytest.raises(sqlite3.IntegrityError):
        journal.ingest(Page([record_of(0, 3, b"\xff")], frozenset()), Broken(journal.db, labels=[], window=1.0))
    assert (letters(journal), journal.positions()) == ([], {})


def test_a_retry_takes_what_can_be_read_now_and_nothing_twice(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(journal, encode([*GOOD, said(rating=2.0)]))
    ingest(journal, b"\xff\xff", 1)
    assert journal.retry([], joiner_of(journal)) == (0, 2)

    monkeypatch.setattr(dead_letters_module, "fault_of", lambda _: None)  # as a later version that can use all of it
    assert journal.retry([], joiner_of(journal)) == (1, 1)
    assert journal.retry([], joiner_of(journal)) == (0, 1)
    assert letters(journal) == [(1, b"\xff\xff")]
    assert journal.db.execute("SELECT count(*) FROM feedback WHERE prediction_id = ?", (OF,)).fetchone() == (1,)
    assert journal.db.execute("SELECT count(*) FROM feedback").fetchone() == (2,)


def test_the_letters_are_bounded_and_the_oldest_go(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters_module, "MOST", 3)
    monkeypatch.setattr(dead_letters_module, "MOST_BYTES", 100)
    before = counter("dead_letters_dropped_total")._value.get()
    for position in range(5):
        ingest(journal, b"\xff", position)
    assert [position for position, _ in letters(journal)] == [2, 3, 4]
    ingest(journal, b"\xff" * 99, 5)
    assert [position for position, _ in letters(journal)] == [4, 5]
    assert counter("dead_letters_dropped_total")._value.get() == before + 4


def test_every_kind_of_fault_is_a_value_of_the_metric() -> None:
    assert _CLOSED["dead_letters_total"] == (KINDS,)
    assert {kind for _, kind in MALFORMED.values()} | {"undecodable", "format"} == set(KINDS)
    assert all(fault_of(event) is None for event in GOOD)


def test_an_operator_lists_shows_and_retries_letters(tmp_path: Path) -> None:
    led = Led(tmp_path)
    led.log.append([], unreadable=[b"\xff\x00rubbish"])
    led.thumb(THUMB_UP)
    led.turn_until(lambda: led.states() == [State.FEEDBACK_STATE_TRAINED])

    found = led.client.dead_letters()
    assert (found.total, found.dead_letters[0].bytes, found.dead_letters[0].position) == (1, 9, 1)
    assert led.client.dead_letter(found.dead_letters[0].id).content == b"\xff\x00rubbish"
    with pytest.raises(NotFound):
        led.client.dead_letter((1 << 64) - 1)
    done = led.order(lambda client: client.retry_dead_letters(None, **ANN))
    assert (done.read, done.left) == (0, 1)
    with pytest.raises(NotNow, match="nothing is missing"):
        led.order(lambda client: client.accept_gap(**ANN))
    led.close()
