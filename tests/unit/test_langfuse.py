"""Scores in the shape of Langfuse's API as judgements, over real HTTP in front of a fake loop."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_gateway import assert_problem, settings_for

from liveloop.errors import InvalidInput
from liveloop.v1.events_pb2 import SOURCE_CODE, SOURCE_EXPERT, SOURCE_HUMAN, THUMB_DOWN, THUMB_UP
from services.commands.processes import Loop
from services.gateway.langfuse import feedback_of
from tests.unit.fake_services import FakeLoop, serve

PREDICTION = "019a8f0e-5b2c-7cc3-9d0a-6a2f8e1c4b7d"
SCORE: dict[str, Any] = {"traceId": PREDICTION, "name": "helpful", "value": 1, "dataType": "BOOLEAN"}


@pytest.mark.parametrize(
    ("changes", "signal", "said"),
    [
        ({}, "thumb", THUMB_UP),
        ({"value": 0}, "thumb", THUMB_DOWN),
        ({"value": True}, "thumb", THUMB_UP),
        ({"value": 0.25, "dataType": "NUMERIC"}, "rating", 0.25),
        ({"value": 0, "dataType": None}, "rating", 0.0),
    ],
)
def test_a_number_is_a_rating_and_a_boolean_a_thumb(changes: dict[str, Any], signal: str, said: object):
    feedback = feedback_of(SCORE | changes)
    assert (feedback.WhichOneof("signal"), getattr(feedback, signal)) == (signal, said)
    assert (feedback.prediction_id, list(feedback.reasons), feedback.feedback_token) == (PREDICTION, ["helpful"], "")


@pytest.mark.parametrize("kind", ["CATEGORICAL", None])
def test_a_category_is_a_correction(kind: str | None):
    assert feedback_of(SCORE | {"value": "positive", "dataType": kind}).correction.label == "positive"


def test_the_observation_goes_before_the_trace_and_what_else_a_score_carries_travels():
    feedback = feedback_of(SCORE | {"observationId": "o", "comment": "hm", "metadata": {"userId": "ann"}, "environment": "live"})
    assert (feedback.prediction_id, feedback.comment, feedback.user) == ("o", "hm", "ann")
    sources = [feedback_of(SCORE | {"source": one}).source for one in (None, "API", "ANNOTATION", "EVAL")]
    assert sources == [SOURCE_HUMAN, SOURCE_HUMAN, SOURCE_EXPERT, SOURCE_CODE]


def test_an_id_that_is_no_uuid_becomes_always_the_same_one():
    own = str(uuid.uuid4())
    assert feedback_of(SCORE | {"id": own.upper()}).feedback_id == own
    first, again, other = (feedback_of(SCORE | {"id": one}).feedback_id for one in ("s-1", "s-1", "s-2"))
    assert first == again != other
    assert uuid.UUID(first).version == 5
    assert feedback_of(SCORE).feedback_id == ""


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": ""}),
        ("observationId", {"traceId": None}),
        ("traceId", {"traceId": 5}),
        ("value", {"value": 0.5}),
        ("value", {"value": 1.5, "dataType": "NUMERIC"}),
        ("value", {"value": -1, "dataType": "NUMERIC"}),
        ("value", {"value": float("nan"), "dataType": "NUMERIC"}),
        ("value", {"value": "1", "dataType": "NUMERIC"}),
        ("value", {"value": None}),
        ("value", {"value": 10**400, "dataType": "NUMERIC"}),
        ("value", {"value": "\ud800"}),
        ("id", {"id": "\ud800"}),
        ("value", {"value": 1, "dataType": "CATEGORICAL"}),
        ("dataType", {"value": "words", "dataType": "TEXT"}),
        ("source", {"source": "ELSEWHERE"}),
        ("comment", {"comment": []}),
    ],
)
def test_a_score_that_stands_for_no_judgement_is_refused_by_its_field(field: str, changes: dict[str, Any]):
    with pytest.raises(InvalidInput) as refused:
        feedback_of(SCORE | changes)
    assert refused.value.field == field


@pytest.fixture
def loop() -> Iterator[FakeLoop]:
    with serve(FakeLoop()) as fake:
        yield fake


def test_a_score_over_http_is_submitted_with_the_callers_key(loop: FakeLoop, tmp_path: Path):
    settings = settings_for(loop, tmp_path)
    with (
        Loop(settings, services=("gateway",)),
        httpx.Client(base_url=f"http://{settings.gateway_listen}", trust_env=False, headers={"Authorization": "Bearer k"}) as http,
    ):
        loop.trusted = "Bearer k"
        given = http.post("/v1/intake/langfuse/scores", json=SCORE | {"id": "s-1"}).json()
        again = http.post("/v1/intake/langfuse/scores", json=SCORE | {"id": "s-1"}).json()
        assert (given["status"], again["status"], given["id"]) == ("accepted", "duplicate", again["id"])
        assert loop.keys == ["Bearer k"] * 2
        refused = http.post("/v1/intake/langfuse/scores", json=SCORE, headers={"Authorization": "Bearer other"})
        assert_problem(refused, 403, "PERMISSION_DENIED", "feedback_token")
        with httpx.Client(base_url=http.base_url, trust_env=False) as nobody:
            assert_problem(nobody.post("/v1/intake/langfuse/scores", json=SCORE), 401, "UNAUTHENTICATED")
        assert_problem(http.post("/v1/intake/langfuse/scores", json=SCORE | {"value": 2}), 400, "INVALID_ARGUMENT", "value")
        assert_problem(http.post("/v1/intake/langfuse/scores", json=[SCORE]), 400, "INVALID_ARGUMENT")
