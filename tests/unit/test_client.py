"""The client against a fake loop that speaks the real contract over real gRPC."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from liveloop import AsyncClient, Client, InvalidInput, NotEntitled, NotFound, Overloaded, Row, TokenForged, Unavailable
from liveloop.errors import DeadlinePassed
from liveloop.v1 import inference_pb2, learner_pb2
from liveloop.v1.events_pb2 import SOURCE_EXPERT, THUMB_DOWN, THUMB_UP
from tests.unit.fake_services import FakeLoop, serve


@pytest.fixture
def loop() -> Iterator[FakeLoop]:
    with serve(FakeLoop()) as fake:
        yield fake


@pytest.fixture
def client(loop: FakeLoop) -> Iterator[Client]:
    with Client(loop.target, learner=loop.target) as client:
        yield client


def test_one_text_gives_one_answer_and_a_sequence_a_list_in_its_order(client: Client, loop: FakeLoop):
    assert client.predict("not bad").label == "negative"
    assert len(client.predict(["a", "b", "c"])) == 3
    assert [one.text for one in loop.requests[-1].inputs] == ["a", "b", "c"]


def test_who_asks_and_what_is_kept_travel_with_the_request(client: Client, loop: FakeLoop):
    answer = client.predict("x", user="ann", session_id="s1", store=False, tags={"page": "home"})
    sent = loop.requests[-1]
    assert (sent.user, sent.session_id, sent.store, dict(sent.tags)) == ("ann", "s1", False, {"page": "home"})
    assert answer.feedback_token == ""


@pytest.mark.parametrize(
    ("given", "signal", "value"),
    [
        (("up",), "thumb", THUMB_UP),
        (("down",), "thumb", THUMB_DOWN),
        ((0.25,), "rating", 0.25),
        ((1,), "rating", 1.0),
    ],
)
def test_a_signal_becomes_the_contracts_signal(client: Client, loop: FakeLoop, given: tuple, signal: str, value: object):
    ack = client.feedback(client.predict("x"), *given, reasons=["tone"], comment="hm")
    sent = loop.requests[-1].feedback[0]
    assert ack.status == inference_pb2.ACK_STATUS_ACCEPTED
    assert (sent.WhichOneof("signal"), getattr(sent, signal)) == (signal, value)
    assert (list(sent.reasons), sent.comment, sent.HasField("created_at")) == (["tone"], "hm", True)


def test_a_label_becomes_a_correction_and_a_retraction_has_an_id_of_its_own(client: Client, loop: FakeLoop):
    prediction = client.predict("x")
    corrected = client.feedback(prediction, label="positive")
    assert loop.requests[-1].feedback[0].correction.label == "positive"
    retracted = client.retract(prediction)
    assert loop.requests[-1].feedback[0].WhichOneof("signal") == "retraction"
    assert retracted.feedback_id != corrected.feedback_id
    assert client.status(prediction.prediction_id).state == learner_pb2.FEEDBACK_STATE_RETRACTED


@pytest.mark.parametrize("given", [{}, {"signal": "sideways"}, {"signal": "up", "label": "positive"}])
def test_no_signal_two_signals_and_unknown_ones_are_refused_before_anything_is_sent(client: Client, loop: FakeLoop, given: dict):
    with pytest.raises(InvalidInput) as refused:
        client.feedback(inference_pb2.Prediction(prediction_id="p"), **given)
    assert refused.value.field == "signal"
    assert loop.requests == []


def test_a_try_whose_answer_was_lost_is_repeated_with_the_same_feedback_id(client: Client, loop: FakeLoop):
    prediction = client.predict("x")
    loop.fail_next = [Unavailable("restarting"), Overloaded("full", retry_after=0.01)]
    ack = client.feedback(prediction, "up")
    tries = [request.feedback[0].feedback_id for request in loop.requests[1:]]
    assert len(tries) == 3
    assert set(tries) == {ack.feedback_id}
    assert client.feedback(prediction, "up", feedback_id=ack.feedback_id).status == inference_pb2.ACK_STATUS_DUPLICATE


def test_tries_are_bounded_and_the_last_error_tells_how_long_to_wait(client: Client, loop: FakeLoop):
    loop.fail_next = [Overloaded("the queue is full", retry_after=0.02)] * 9
    with pytest.raises(Overloaded) as refused:
        client.predict("x")
    assert (refused.value.retry_after, refused.value.reason) == (0.02, "the queue is full")
    assert len(loop.requests) == 4


def test_a_wait_that_would_pass_the_deadline_is_not_taken(loop: FakeLoop):
    loop.fail_next = [Overloaded("full", retry_after=3600)] * 9
    with Client(loop.target) as client, pytest.raises(Overloaded):
        client.predict("x")
    assert len(loop.requests) == 1


def test_a_refusal_keeps_its_kind_and_field_and_is_not_tried_again(client: Client, loop: FakeLoop):
    with pytest.raises(InvalidInput) as refused:
        client.predict(["good", ""])
    assert refused.value.field == "inputs[1].text"
    assert len(loop.requests) == 1
    with pytest.raises(NotFound):
        client.status("never", "sent")
    loop.fail_next = [TokenForged("who are you?"), DeadlinePassed("too late")]
    with pytest.raises(NotEntitled):
        client.model()
    with pytest.raises(DeadlinePassed):
        client.model()


def test_a_web_proxy_in_the_environment_is_not_asked(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Client(loop.target, learner=loop.target) as client:
        assert client.predict("x").label == "negative"


def test_an_answer_larger_than_grpcs_own_limit_arrives(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "_answer", lambda store: inference_pb2.Prediction(label="x" * (5 << 20)))
    with Client(loop.target) as client:
        assert len(client.predict("x").label) == 5 << 20


def test_a_loop_that_is_away_is_unavailable():
    with Client("127.0.0.1:1", timeout=2) as client, pytest.raises(Unavailable):
        client.predict("x")


def test_versions_and_model_come_back_as_messages(client: Client):
    assert [version.version for version in client.versions()] == [40, 39]
    assert len(client.versions(limit=1)) == 1
    assert list(client.model().labels) == ["negative", "neutral", "positive"]


def test_importing_liveloop_loads_nothing_heavy_and_the_client_only_grpc():
    code = """
import sys, liveloop
assert not {"torch", "kafka", "redis", "pydantic", "numpy", "grpc"} & set(sys.modules)
from liveloop import Client
assert not {"torch", "kafka", "redis", "pydantic", "numpy", "fastapi"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_both_clients_have_the_same_methods_with_the_same_arguments_and_words():
    def methods(kind: type) -> dict[str, object]:
        return {name: found for name in dir(kind) if not name.startswith("_") and callable(found := getattr(kind, name))}

    blocking, awaited = methods(Client), methods(AsyncClient)
    assert set(blocking) == set(awaited)
    for name, method in blocking.items():
        assert inspect.signature(method) == inspect.signature(awaited[name]), name
        assert inspect.iscoroutinefunction(awaited[name]), name
        assert not inspect.iscoroutinefunction(method), name
        assert method.__doc__, name
    assert inspect.signature(Client) == inspect.signature(AsyncClient)


def test_the_awaited_client_asks_judges_and_tries_again_while_others_run(loop: FakeLoop):
    async def talk() -> None:
        async with AsyncClient(loop.target, learner=loop.target) as client:
            answers = await asyncio.gather(*(client.predict(f"text {number}") for number in range(20)))
            assert len({answer.prediction_id for answer in answers}) == 20
            loop.fail_next = [Unavailable("restarting"), Overloaded("full", retry_after=0.01)]
            ack = await client.feedback(answers[0], "up")
            assert ack.status == inference_pb2.ACK_STATUS_ACCEPTED
            assert len({request.feedback[0].feedback_id for request in loop.requests[20:]}) == 1
            assert (await client.status(answers[0].prediction_id)).feedback_id == ack.feedback_id
            with pytest.raises(InvalidInput):
                await client.predict("")

    asyncio.run(talk())


def test_a_key_travels_with_every_call_and_a_backend_names_the_judge_by_id_alone(loop: FakeLoop):
    with Client(loop.target, learner=loop.target, key="secret") as client:
        client.feedback("0190b5a2-7d4e-7a31-9d5c-0123456789ab", "up", user="ann", source="expert")
        client.versions()
    sent = loop.requests[0].feedback[0]
    assert (sent.prediction_id, sent.feedback_token, sent.user) == ("0190b5a2-7d4e-7a31-9d5c-0123456789ab", "", "ann")
    assert sent.source == SOURCE_EXPERT
    assert loop.keys == ["Bearer secret"] * 2


def test_rows_are_sent_in_batches_and_what_cannot_be_stored_yet_is_sent_again_alone(loop: FakeLoop):
    rows = [Row(f"text {number}", "positive") for number in range(300)]
    loop.full_for = {"text 7", "text 260"}  # at the first try
    with Client(loop.target) as client:
        acks = client.learn(rows, source="human")
        assert [len(request.examples) for request in loop.requests] == [256, 1, 44, 1]
        assert {ack.status for ack in acks} == {inference_pb2.ACK_STATUS_ACCEPTED}
        assert [ack.id for ack in acks] == [row.example(0).id for row in rows]
        assert {ack.status for ack in client.learn(rows)} == {inference_pb2.ACK_STATUS_DUPLICATE}


def test_the_id_of_a_row_without_one_follows_from_what_it_says():
    same = [Row("a", "b"), Row("a", "b", time=datetime(2026, 1, 31, tzinfo=UTC))]
    others = [Row("ab", ""), Row("a", "b", user="u"), Row("a", "c"), Row("a", "b", id="mine")]
    assert len({row.example(0).id for row in same}) == 1
    assert len({row.example(0).id for row in same + others}) == 5
