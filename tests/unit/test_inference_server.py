"""The contract of the inference service: what it answers, what it refuses and how, and what it leaves in the log."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import grpc
import pytest
from prometheus_client import REGISTRY

from liveloop.errors import InvalidInput, LiveloopError, Overloaded
from liveloop.events.intake import Intake
from liveloop.events.sqlite import SqliteLog, Verdict
from liveloop.keys import TokenKeys
from liveloop.rpc import error_from
from liveloop.tasks import Answer, Encoded
from liveloop.tasks.classification import Classification
from liveloop.v1 import events_pb2, inference_pb2
from liveloop.v1.events_pb2 import Event, Feedback, Input
from liveloop.v1.inference_pb2 import ACK_STATUS_ACCEPTED, ACK_STATUS_DUPLICATE, ACK_STATUS_REJECTED, Prediction, PredictRequest
from liveloop.v1.inference_pb2_grpc import InferenceServiceStub, add_InferenceServiceServicer_to_server
from liveloop.weights.channels import Channel, channel_of
from services.inference.batcher import Batcher
from services.inference.replica import Replica
from services.inference.server import InferenceServicer, Serving
from services.inference.tokens import Tokens
from tests.tiny import tiny_bundle

MAX_TEXT_BYTES = 1000


class Shedding:
    """An intake whose log is full."""

    def offer(self, _: Event) -> bool:
        return False

    def accept(self, _: Event) -> Future[Verdict]:
        raise Overloaded("the event log is full", retry_after=2.5)


class Service:
    """A servicer behind a real gRPC server, its event loop in a thread of its own."""

    def __init__(self, folder: Path, intake: Intake | Shedding | None = None, *, queue_limit: int = 512) -> None:
        bundle, bits = tiny_bundle()
        self.task = Classification(bundle)
        self.bits = bits
        self.replica = Replica(self.task, bundle.layout, bits, 5)
        self.log = SqliteLog(folder / "events.db")
        self.intake = intake or Intake(self.log)
        self.now = 1_700_000_000.0
        self.tokens = Tokens(TokenKeys("1", {"1": b"k" * 32}), b"a" * 32, window=100.0, clock=lambda: self.now)
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.queue_limit = queue_limit
        self.canary_share = 1.0
        self.holdout_share = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Service:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub = InferenceServiceStub(self.channel)
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.channel.close()
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        if isinstance(self.intake, Intake):
            self.intake.close(5)

    async def _start(self) -> int:
        self._batcher = Batcher(self._compute, limit=self.queue_limit, batch_tokens=4096, observe=lambda size: None)
        self._batcher.start()
        self.servicer = InferenceServicer(
            self.task,
            self._batcher,
            self.intake,
            self.tokens,
            max_text_bytes=MAX_TEXT_BYTES,
            serving=lambda: Serving(self.replica.version, 3, self.canary_share),
            holdout_share=self.holdout_share,
            clock=lambda: self.now,
        )
        self._server = grpc.aio.server()
        add_InferenceServiceServicer_to_server(self.servicer, self._server)
        port: int = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    async def _stop(self) -> None:
        await self._server.stop(5)
        await self._batcher.stop()

    def _compute(self, inputs: Sequence[Encoded], channel: Channel) -> tuple[Channel, int, Sequence[Answer]]:
        self.running.set()
        assert self.gate.wait(30)
        with self.replica.acquire(channel) as held:
            return held.channel, held.version, self.task.answer(held.model, inputs)

    def predict(self, *texts: str, **fields: object) -> list[Prediction]:
        request = PredictRequest(inputs=[Input(text=text) for text in texts], **fields)
        return list(self.stub.Predict(request, timeout=30).predictions)

    def feed(self, *items: Feedback) -> list[inference_pb2.FeedbackAck]:
        return list(self.stub.SubmitFeedback(inference_pb2.SubmitFeedbackRequest(feedback=items), timeout=30).acks)

    def thumb(self, prediction: Prediction, **fields: object) -> Feedback:
        values = {"prediction_id": prediction.prediction_id, "feedback_token": prediction.feedback_token, "thumb": events_pb2.THUMB_UP}
        if {"rating", "correction", "retraction"} & set(fields):
            del values["thumb"]
        return Feedback(**{**values, **fields})

    def events(self, kind: str) -> list[Event]:
        """What is in the log, of one kind, once everything offered so far is written."""
        assert isinstance(self.intake, Intake)
        last = Event(pod_report=events_pb2.PodReport(pod=uuid.uuid4().hex))
        assert self.intake.offer(last)
        wait_for(lambda: last in self._logged())
        return [event for event in self._logged() if event.WhichOneof("event") == kind]

    def _logged(self) -> list[Event]:
        return [event for record in self.log.read({}, limit=10_000, timeout=0).records for event in record.events]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
        yield running


def refusal(call: Callable[[], object]) -> LiveloopError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return error_from(caught.value)


def test_with_a_canary_an_asker_is_always_answered_by_the_same_channel_and_the_log_says_by_which(service: Service):
    service.replica.open(Channel.BLESSED, service.bits, 3)
    service.canary_share = 0.4
    users = [f"user-{number}" for number in range(12)]
    versions = {user: {found.version for _ in range(2) for found in service.predict("a movie", "a film", user=user)} for user in users}
    for user, seen in versions.items():
        asker = service.tokens.asker(user=user, session_id="", prediction_id="")
        assert seen == {5 if channel_of(asker, 0.4) is Channel.CURRENT else 3}
    assert {3} in versions.values()
    assert {5} in versions.values()
    anonymous = service.predict(*["a movie"] * 64)
    assert {found.version for found in anonymous} == {3, 5}
    channels = {5: events_pb2.CHANNEL_CURRENT, 3: events_pb2.CHANNEL_BLESSED}
    for event in service.events("prediction"):
        assert event.prediction.channel == channels[event.prediction.version]
        assert channel_of(event.prediction.asker, 0.4) == event.prediction.channel


def test_a_canary_that_is_switched_off_leaves_everybody_with_the_current_version(service: Service):
    service.replica.open(Channel.BLESSED, service.bits, 3)
    service.canary_share = 0.0
    assert {found.version for found in service.predict("a movie", user="anna")} == {3}
    service.replica.close(Channel.BLESSED)
    assert {found.version for found in service.predict("a movie", user="anna")} == {5}
    service.canary_share = 1.0
    assert {found.version for found in service.predict("a movie", user="anna")} == {5}
    assert [event.prediction.channel for event in service.events("prediction")] == [2, 1, 1]


@pytest.mark.parametrize("canary_share", [1.0, 0.4])
def test_users_who_are_held_out_are_always_answered_by_version_1_beside_a_canary_too(tmp_path: Path, canary_share: float):
    service = Service(tmp_path)
    service.canary_share, service.holdout_share = canary_share, 0.3
    service.replica.open(Channel.HOLDOUT, service.bits, 1)
    service.replica.open(Channel.BLESSED, service.bits, 3)
    with service:
        for number in range(12):
            asker = service.tokens.asker(user=str(number), session_id="", prediction_id="")
            expected = {Channel.CURRENT: 5, Channel.BLESSED: 3, Channel.HOLDOUT: 1}[channel_of(asker, canary_share, 0.3)]
            found = [*service.predict("a movie", "a film", user=str(number)), *service.predict("a movie", user=str(number), store=False)]
            assert {one.version for one in found} == {expected}
        channels = {event.prediction.version: event.prediction.channel for event in service.events("prediction")}
    assert channels.items() >= {1: events_pb2.CHANNEL_HOLDOUT, 5: events_pb2.CHANNEL_CURRENT}.items()


def test_an_answer_names_its_version_and_all_labels_best_first(shared: Service):
    (found,) = shared.predict("a good movie")
    assert found.version == 5
    assert found.label == found.scores[0].label
    assert {score.label for score in found.scores} == {"negative", "positive"}
    assert found.scores[0].score >= found.scores[1].score
    assert sum(score.score for score in found.scores) == pytest.approx(1.0)
    assert found.propensity == 1.0
    assert not found.truncated
    assert uuid.UUID(found.prediction_id).version == 7


def test_many_inputs_are_answered_in_their_order(shared: Service):
    texts = [("good " * (1 + number % 7)) + f"movie {number}" for number in range(256)]
    together = shared.predict(*texts)
    for index in (0, 100, 255):
        (alone,) = shared.predict(texts[index])
        assert together[index].label == alone.label
        assert together[index].scores[0].score == pytest.approx(alone.scores[0].score, abs=1e-5)


def test_a_text_over_the_models_tokens_is_cut_and_says_so(shared: Service):
    long, short = shared.predict("good " * 100, "good")
    assert long.truncated
    assert not short.truncated


def test_an_answer_is_in_the_log_with_a_hash_in_place_of_the_user(service: Service):
    (found,) = service.predict("a fine film", user="ann", session_id="s", tags={"page": "home"})
    (event,) = (event.prediction for event in service.events("prediction"))
    assert event.prediction_id == found.prediction_id
    assert event.input.text == "a fine film"
    assert (event.label, event.version, event.propensity) == (found.label, 5, 1.0)
    assert event.score == pytest.approx(found.scores[0].score)
    assert event.asker == service.tokens.asker(user="ann", session_id="", prediction_id="")
    assert dict(event.tags) == {"page": "home"}
    assert event.created_at.ToSeconds() == service.now
    assert b"ann" not in event.SerializeToString()


def test_an_answer_that_shall_not_be_stored_is_not_in_the_log_and_has_no_token(service: Service):
    (found,) = service.predict("a fine film", store=False)
    assert found.label
    assert found.feedback_token == ""
    assert service.events("prediction") == []
    (kept,) = service.predict("a fine film", store=True)
    assert kept.feedback_token


def test_when_predictions_are_shed_they_are_answered_without_a_token(tmp_path: Path):
    with Service(tmp_path, Shedding()) as service:
        (found,) = service.predict("a fine film")
        assert found.label
        assert found.feedback_token == ""


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("inputs", PredictRequest()),
        ("inputs", PredictRequest(inputs=[Input(text="x")] * 257)),
        ("inputs[1].text", PredictRequest(inputs=[Input(text="x"), Input(text="")])),
        ("inputs[0].text", PredictRequest(inputs=[Input()])),
        ("inputs[1].text", PredictRequest(inputs=[Input(text="x"), Input(text="é" * 501)])),
        ("user", PredictRequest(inputs=[Input(text="x")], user="u" * 257)),
        ("session_id", PredictRequest(inputs=[Input(text="x")], session_id="s" * 257)),
        ("tags", PredictRequest(inputs=[Input(text="x")], tags={str(number): "" for number in range(17)})),
        ("tags", PredictRequest(inputs=[Input(text="x")], tags={"k" * 65: "v"})),
        ("tags", PredictRequest(inputs=[Input(text="x")], tags={"k": "v" * 65})),
    ],
)
def test_a_prediction_that_cannot_be_made_fails_whole_naming_the_field_and_stores_nothing(
    shared: Service, field: str, request_: PredictRequest
):
    before = len(shared.events("prediction"))
    with pytest.raises(grpc.RpcError) as caught:
        shared.stub.Predict(request_, timeout=30)
    error = error_from(caught.value)
    assert isinstance(error, InvalidInput)
    assert error.field == field
    assert caught.value.details().startswith(f"{field}: ")
    assert len(shared.events("prediction")) == before


def test_limits_are_inclusive(shared: Service):
    tags = {f"{number:064d}": "v" * 64 for number in range(16)}
    (found,) = shared.predict("é" * 500, user="u" * 256, session_id="s" * 256, tags=tags)
    assert found.feedback_token


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(tmp_path: Path):
    with Service(tmp_path, queue_limit=2) as service:
        service.gate.clear()
        request = PredictRequest(inputs=[Input(text="a")] * 2)
        first = service.stub.Predict.future(request, timeout=60)
        assert service.running.wait(30)
        second = service.stub.Predict.future(request, timeout=60)
        wait_for(lambda: service._batcher.depth == 2)
        error = refusal(lambda: service.predict("one more"))
        assert isinstance(error, Overloaded)
        assert error.retry_after > 0
        service.gate.set()
        assert len(first.result().predictions) == len(second.result().predictions) == 2


def test_a_deadline_that_passes_in_the_queue_is_said_and_the_model_is_not_asked(service: Service):
    service.gate.clear()
    first = service.stub.Predict.future(PredictRequest(inputs=[Input(text="a")]), timeout=60)
    assert service.running.wait(30)
    late = service.stub.Predict.future(PredictRequest(inputs=[Input(text="b")]), timeout=0.2)
    assert refusal(late.result).code == "DEADLINE_EXCEEDED"
    wait_for(lambda: service._batcher.depth == 0)
    service.gate.set()
    first.result()
    assert [event.prediction.input.text for event in service.events("prediction")] == ["a"]


@pytest.mark.parametrize(
    "signal",
    [
        {"thumb": events_pb2.THUMB_DOWN},
        {"rating": 0.0},
        {"rating": 1.0},
        {"correction": events_pb2.Correction(label="negative")},
        {"retraction": events_pb2.Retraction()},
    ],
)
def test_a_feedback_is_durable_when_acknowledged_and_carries_the_hash_of_the_asker(shared: Service, signal: dict[str, object]):
    (found,) = shared.predict("a dull film", user="bob")
    item = shared.thumb(found, user="mallory", reasons=["tone"], comment="no, ask ann@example.com", **signal)
    (ack,) = shared.feed(item)
    assert (ack.status, ack.code, ack.field, ack.reason) == (ACK_STATUS_ACCEPTED, "", "", "")
    event = shared.events("feedback")[-1].feedback
    assert event.judge == shared.tokens.asker(user="bob", session_id="", prediction_id="")
    assert event.accepted_at.ToSeconds() == shared.now
    assert event.feedback.feedback_id == ack.feedback_id
    assert uuid.UUID(ack.feedback_id)
    assert (event.feedback.feedback_token, event.feedback.user) == ("", "")
    assert event.feedback.WhichOneof("signal") == item.WhichOneof("signal")
    assert list(event.feedback.reasons) == ["tone"]
    assert event.feedback.comment == "no, ask [e-mail]"


def test_the_same_feedback_again_is_a_duplicate_and_other_content_a_conflict(service: Service):
    (found,) = service.predict("a film")
    same = service.thumb(found, feedback_id="0190B5A2-7d4e-7a31-9d5c-0123456789ab")
    other = service.thumb(found, feedback_id=same.feedback_id.lower(), thumb=events_pb2.THUMB_DOWN)
    first, second, third = service.feed(same, same, other)
    assert [first.status, second.status] == [ACK_STATUS_ACCEPTED, ACK_STATUS_DUPLICATE]
    assert (third.status, third.code, third.field) == (ACK_STATUS_REJECTED, "ALREADY_EXISTS", "feedback[2].feedback_id")
    assert first.feedback_id == second.feedback_id == same.feedback_id.lower()
    assert service.feed(same)[0].status == ACK_STATUS_DUPLICATE
    assert len(service.events("feedback")) == 1


BAD_ITEMS: list[tuple[str, dict[str, object]]] = [
    ("correction.label", {"correction": events_pb2.Correction(label="neutral")}),
    ("correction.label", {"correction": events_pb2.Correction()}),
    ("rating", {"rating": 1.000001}),
    ("rating", {"rating": -0.1}),
    ("rating", {"rating": float("nan")}),
    ("thumb", {"thumb": events_pb2.THUMB_UNSPECIFIED}),
    ("thumb", {"thumb": 7}),
    ("feedback_id", {"feedback_id": "not-a-uuid"}),
    ("feedback_id", {"feedback_id": "{0190b5a2-7d4e-7a31-9d5c-0123456789ab}"}),
    ("reasons", {"reasons": ["x"] * 17}),
    ("reasons[1]", {"reasons": ["x", "y" * 65]}),
    ("comment", {"comment": "z" * 4097}),
    ("created_at", {"created_at": {"seconds": 1 << 60}}),
]


def test_an_items_own_fault_is_a_rejected_ack_naming_the_field_and_stores_nothing(shared: Service):
    (found,) = shared.predict("a film")
    before = len(shared.events("feedback"))
    items = [shared.thumb(found, **fields) for _, fields in BAD_ITEMS]
    no_signal = Feedback(prediction_id=found.prediction_id, feedback_token=found.feedback_token)
    acks = shared.feed(*items, no_signal)
    fields = [field for field, _ in BAD_ITEMS] + ["signal"]
    assert [ack.field for ack in acks] == [f"feedback[{index}].{field}" for index, field in enumerate(fields)]
    assert {(ack.status, ack.code) for ack in acks} == {(ACK_STATUS_REJECTED, "INVALID_ARGUMENT")}
    assert all(ack.reason for ack in acks)
    assert len(shared.events("feedback")) == before


def test_a_token_that_is_missing_forged_of_another_prediction_or_expired_is_rejected_beside_good_neighbours(service: Service):
    one, two = service.predict("a film", "a movie")
    forged = one.feedback_token[:-10] + ("A" if one.feedback_token[-10] != "A" else "B") + one.feedback_token[-9:]
    acks = service.feed(
        service.thumb(one, feedback_token=""),
        service.thumb(one, feedback_token=forged),
        service.thumb(one, feedback_token=two.feedback_token),
        service.thumb(one),
    )
    assert [(ack.status, ack.code) for ack in acks[:3]] == [(ACK_STATUS_REJECTED, "PERMISSION_DENIED")] * 3
    assert [ack.field for ack in acks[:3]] == [f"feedback[{index}].feedback_token" for index in range(3)]
    assert acks[3].status == ACK_STATUS_ACCEPTED
    service.now += 100.0
    (late,) = service.feed(service.thumb(two))
    assert (late.status, late.code, late.field) == (ACK_STATUS_REJECTED, "FAILED_PRECONDITION", "feedback[0].feedback_token")
    assert len(service.events("feedback")) == 1


@pytest.mark.parametrize("count", [0, 257])
def test_no_feedback_and_too_much_of_it_fail_the_call(shared: Service, count: int):
    error = refusal(lambda: shared.feed(*[Feedback()] * count))
    assert isinstance(error, InvalidInput)
    assert error.field == "feedback"


def test_a_full_log_refuses_feedback_and_says_when_to_come_back(tmp_path: Path):
    with Service(tmp_path, Shedding()) as service:
        token = service.tokens.sign("p", asker=b"x", version=1, propensity=1.0)
        error = refusal(lambda: service.feed(Feedback(prediction_id="p", feedback_token=token, rating=0.5)))
        assert isinstance(error, Overloaded)
        assert error.retry_after == 2.5


def test_the_model_and_its_limits_are_told(shared: Service):
    found = shared.stub.GetModel(inference_pb2.GetModelRequest(), timeout=30)
    assert (found.model, list(found.labels)) == ("tiny", ["negative", "positive"])
    assert (found.version, found.blessed_version, found.max_inputs, found.max_text_bytes) == (5, 3, 256, MAX_TEXT_BYTES)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(3000):
        if condition():
            return
        deadline.wait(0.01)
    raise AssertionError("it did not happen in 30 s")


def test_a_fault_of_the_service_is_internal_in_neutral_words_and_counted(service: Service, monkeypatch: pytest.MonkeyPatch):
    def broken(_: Sequence[str]) -> list[Encoded]:
        raise ZeroDivisionError("division by zero")

    def counted() -> float:
        return REGISTRY.get_sample_value("liveloop_predict_requests_total", {"code": "INTERNAL"}) or 0.0

    before = counted()
    monkeypatch.setattr(service.task, "encode", broken)
    error = refusal(lambda: service.predict("good"))
    assert error.code == "INTERNAL"
    assert "division" not in error.reason
    assert "Error" not in error.reason
    assert counted() == before + 1
