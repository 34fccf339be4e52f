"""Who judges, by token and by API key; labelled rows; and what is told when only some of a call can be stored."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from test_inference_server import MAX_TEXT_BYTES, Service, Shedding, refusal, wait_for

from liveloop.access import LOCAL, Caller, Scope, called_by
from liveloop.errors import InvalidInput, Overloaded
from liveloop.events.intake import Intake
from liveloop.events.sqlite import SqliteLog, Verdict
from liveloop.v1.events_pb2 import SOURCE_CODE, SOURCE_EXPERT, SOURCE_HUMAN, SOURCE_IMPLICIT, THUMB_UP, Event, Feedback, Input
from liveloop.v1.inference_pb2 import (
    ACK_STATUS_ACCEPTED,
    ACK_STATUS_DUPLICATE,
    ACK_STATUS_REJECTED,
    ExampleAck,
    LabelledExample,
    PredictRequest,
    SubmitExamplesRequest,
)

BACKEND = Caller("shop", frozenset({Scope.PREDICT, Scope.FEEDBACK, Scope.EXAMPLES}))
OTHER = Caller("press", BACKEND.scopes)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that takes every call for one of `service.who`."""
    with Service(tmp_path) as running:
        running.who = LOCAL  # type: ignore[attr-defined]
        for name in ("_feedback", "_examples"):
            desk = getattr(running.servicer, name)
            monkeypatch.setattr(desk, "take", _as_caller(running, desk.take))
        yield running


def _as_caller(service: Any, take: Callable[..., Any]) -> Callable[..., Any]:
    async def call(item: Any, at: str) -> Any:
        with called_by(service.who):
            return await take(item, at)

    return call


def rows(service: Service, *examples: LabelledExample) -> list[ExampleAck]:
    return list(service.stub.SubmitExamples(SubmitExamplesRequest(examples=examples), timeout=30).acks)


def row(text: str = "a film", label: str = "positive", **fields: Any) -> LabelledExample:
    return LabelledExample(input=Input(text=text), label=label, **fields)


def made_at(seconds: float) -> str:
    """A UUIDv7 of that time."""
    return str(uuid.UUID(int=int(seconds * 1000) << 80 | 7 << 76 | 2 << 62 | 12345))


def user(service: Service, name: str) -> bytes:
    return service.tokens.asker(user=name, session_id="", prediction_id="")


def test_a_thousand_invented_users_with_one_token_are_one_judge(service: Service):
    (found,) = service.predict("a film", user="bob")
    for start in range(0, 1000, 250):
        acks = service.feed(*(service.thumb(found, user=f"user {start + number}") for number in range(250)))
        assert {ack.status for ack in acks} == {ACK_STATUS_ACCEPTED}
    events = [event.feedback for event in service.events("feedback")]
    assert {(event.judge, event.client) for event in events} == {(user(service, "bob"), "")}
    assert len(events) == 1000


def test_a_key_with_the_scope_names_another_judge_and_vouches_for_it(service: Any):
    (found,) = service.predict("a film", user="bob")
    service.who = BACKEND
    service.feed(service.thumb(found, user="ann"), service.thumb(found, source=SOURCE_EXPERT), service.thumb(found))
    events = [event.feedback for event in service.events("feedback")]
    judges = [user(service, "ann"), user(service, "bob"), user(service, "bob")]
    assert [event.judge for event in events] == judges
    assert [event.client for event in events] == ["shop", "shop", ""]
    assert all(not event.feedback.user for event in events)


@pytest.mark.parametrize("source", [SOURCE_EXPERT, SOURCE_CODE])
def test_an_expert_or_a_program_needs_a_key_that_vouches_and_neighbours_do_not(service: Any, source: Any):
    (found,) = service.predict("a film")
    refused, taken = service.feed(service.thumb(found, source=source), service.thumb(found, source=SOURCE_IMPLICIT))
    assert (refused.status, refused.code, refused.field) == (ACK_STATUS_REJECTED, "PERMISSION_DENIED", "feedback[0].source")
    assert taken.status == ACK_STATUS_ACCEPTED
    (refused_row, taken_row) = rows(service, row(source=source), row(source=SOURCE_HUMAN))
    assert (refused_row.code, refused_row.field, taken_row.status) == ("PERMISSION_DENIED", "examples[0].source", ACK_STATUS_ACCEPTED)
    service.who = BACKEND
    assert service.feed(service.thumb(found, source=source))[0].status == ACK_STATUS_ACCEPTED
    assert [event.feedback.feedback.source for event in service.events("feedback")] == [SOURCE_IMPLICIT, source]


def test_a_backend_judges_by_id_alone_as_itself_or_as_a_user(service: Any):
    (found,) = service.predict("a film", user="bob")
    prediction_id = made_at(service.now - 10)
    item = Feedback(prediction_id=prediction_id, thumb=THUMB_UP)
    assert service.feed(item)[0].code == "PERMISSION_DENIED"
    for who in (BACKEND, OTHER):
        service.who = who
        assert service.feed(item)[0].status == ACK_STATUS_ACCEPTED
    service.feed(Feedback(prediction_id=prediction_id, thumb=THUMB_UP, user="bob"))
    events = [event.feedback for event in service.events("feedback")]
    assert [event.client for event in events] == ["shop", "press", "press"]
    assert len({event.judge for event in events}) == 3
    assert events[2].judge == user(service, "bob")
    assert events[0].judge != user(service, "shop")
    assert found.prediction_id != prediction_id


@pytest.mark.parametrize(
    ("prediction_id", "code"),
    [
        (made_at(1_700_000_000 - 100), ""),
        (made_at(1_700_000_000 + 59), ""),
        (made_at(1_700_000_000 - 101), "FAILED_PRECONDITION"),
        (made_at(1_700_000_000 + 61), "INVALID_ARGUMENT"),
        (made_at(1_700_000_000).upper(), "INVALID_ARGUMENT"),
        ("018bcfe5-6800-4001-8000-000000000001", "INVALID_ARGUMENT"),
        ("", "INVALID_ARGUMENT"),
        ("no id", "INVALID_ARGUMENT"),
    ],
)
def test_an_id_alone_counts_for_the_window_and_only_if_it_is_one_of_ours(service: Any, prediction_id: str, code: str):
    service.who = BACKEND
    (ack,) = service.feed(Feedback(prediction_id=prediction_id, thumb=THUMB_UP))
    assert (ack.code, ack.field) == (code, "feedback[0].prediction_id" if code else "")


def test_a_key_does_not_make_a_forged_token_good(service: Any):
    (found,) = service.predict("a film")
    service.who = BACKEND
    (ack,) = service.feed(service.thumb(found, feedback_token=found.feedback_token[:-1], user="ann"))
    assert (ack.code, ack.field) == ("PERMISSION_DENIED", "feedback[0].feedback_token")
    assert service.feed(service.thumb(found, user="u" * 257))[0].field == "feedback[0].user"


def test_a_labelled_row_is_durable_when_acknowledged_and_carries_a_hash_in_place_of_the_user(service: Any):
    service.who = BACKEND
    by_ann, by_client = rows(service, row(user="ann", id="r1", source=SOURCE_EXPERT, created_at={"seconds": 5}), row("dull", "negative"))
    assert (by_ann.id, by_ann.status, by_client.status) == ("r1", ACK_STATUS_ACCEPTED, ACK_STATUS_ACCEPTED)
    assert uuid.UUID(by_client.id)
    first, second = (event.example for event in service.events("example"))
    assert (first.example_id, first.input.text, first.label, first.source) == ("r1", "a film", "positive", SOURCE_EXPERT)
    assert (first.judge, first.client, first.created_at.seconds) == (user(service, "ann"), "shop", 5)
    assert first.accepted_at.ToSeconds() == service.now
    assert (second.example_id, second.judge) == (by_client.id, service.tokens.client("shop"))
    assert b"ann" not in first.SerializeToString()


def test_the_same_row_again_is_a_duplicate_and_other_content_a_conflict(service: Any):
    service.who = BACKEND
    again = row(id="r1", created_at={"seconds": 9})
    others = [row("x", id="r1"), row(label="negative", id="r1"), row(id="r1", user="ann"), row(id="r1", source=SOURCE_CODE)]
    first, second, *conflicts = rows(service, row(id="r1"), again, *others)
    assert [first.status, second.status] == [ACK_STATUS_ACCEPTED, ACK_STATUS_DUPLICATE]
    assert {(ack.status, ack.code) for ack in conflicts} == {(ACK_STATUS_REJECTED, "ALREADY_EXISTS")}
    assert conflicts[0].field == "examples[2].id"
    assert len(service.events("example")) == 1


BAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("id", {"id": "x" * 65}),
    ("id", {"id": "a\nb"}),
    ("input.text", {"text": ""}),
    ("input.text", {"text": "x" * (MAX_TEXT_BYTES + 1)}),
    ("label", {"label": "neutral"}),
    ("label", {"label": ""}),
    ("user", {"user": "u" * 257}),
    ("created_at", {"created_at": {"seconds": 1 << 60}}),
]


def test_a_rows_own_fault_is_a_rejected_ack_naming_the_field_beside_good_neighbours(service: Any):
    acks = rows(service, *(row(**fields) for _, fields in BAD_ROWS), row(id="x" * 64))
    assert [ack.field for ack in acks] == [f"examples[{index}].{field}" for index, (field, _) in enumerate(BAD_ROWS)] + [""]
    assert [ack.code for ack in acks] == ["INVALID_ARGUMENT"] * len(BAD_ROWS) + [""]
    assert len(service.events("example")) == 1
    for count in (0, 257):
        error = refusal(lambda count=count: rows(service, *[row()] * count))
        assert isinstance(error, InvalidInput)
        assert error.field == "examples"


class Filling(Intake):
    """An intake whose log is full after so many items."""

    def __init__(self, log: SqliteLog, *, room: int) -> None:
        super().__init__(log)
        self.room = room

    def accept(self, event: Event) -> Future[Verdict]:
        if not self.room:
            raise Overloaded("the event log is full", retry_after=2.5)
        self.room -= 1
        return super().accept(event)


def test_what_could_be_stored_is_told_beside_what_could_not_and_can_be_sent_again(tmp_path: Path):
    with Service(tmp_path, Filling(SqliteLog(tmp_path / "events.db"), room=2)) as service:
        (found,) = service.predict("a film")
        acks = service.feed(*[service.thumb(found)] * 3, service.thumb(found, rating=2.0))
        assert [ack.status for ack in acks] == [ACK_STATUS_ACCEPTED] * 2 + [ACK_STATUS_REJECTED] * 2
        assert [ack.code for ack in acks[2:]] == ["RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"]
        service.intake.room = 1
        again = [service.thumb(found, feedback_id=ack.feedback_id) for ack in acks[2:3]]
        assert service.feed(*again)[0].status == ACK_STATUS_ACCEPTED
        assert len(service.events("feedback")) == 3
        error = refusal(lambda: service.feed(service.thumb(found), service.thumb(found, rating=2.0)))
        assert isinstance(error, Overloaded)
        assert error.retry_after == 2.5
        service.intake.room = 1
        stored, left = rows(service, row("a"), row("b"))
        assert (stored.status, left.code) == (ACK_STATUS_ACCEPTED, "RESOURCE_EXHAUSTED")


def test_a_full_log_refuses_rows_whole(tmp_path: Path):
    with Service(tmp_path, Shedding()) as service:
        assert isinstance(refusal(lambda: rows(service, row(), row())), Overloaded)


def test_a_call_that_the_queue_has_no_room_for_is_refused_before_it_is_tokenised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Service(tmp_path, queue_limit=2) as service:
        service.gate.clear()
        running = [service.stub.Predict.future(_asking("a", "b"), timeout=60)]
        assert service.running.wait(30)
        running.append(service.stub.Predict.future(_asking("c", "d"), timeout=60))
        wait_for(lambda: service._batcher.depth == 2)
        encoded: list[object] = []
        monkeypatch.setattr(service.task, "encode", encoded.append)
        assert isinstance(refusal(lambda: service.predict("one more")), Overloaded)
        assert encoded == []
        service.gate.set()
        assert all(call.result().predictions for call in running)


def _asking(*texts: str) -> PredictRequest:
    return PredictRequest(inputs=[Input(text=text) for text in texts])
