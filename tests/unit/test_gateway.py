"""The gateway as a process of its own, over real HTTP, in front of a fake loop that speaks the real contract over real gRPC."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from liveloop import rpc
from liveloop.errors import DeadlinePassed, InvalidInput, Overloaded, Unavailable
from liveloop.settings import Settings
from liveloop.v1.events_pb2 import Correction, Feedback, Retraction, Thumb
from liveloop.v1.inference_pb2 import PredictRequest
from liveloop.v1.learner_pb2 import ListVersionsResponse, Version
from services.commands.processes import Loop, free_settings
from services.gateway.problems import HTTP_STATUS
from services.gateway.transcoding import from_json, to_json
from tests.unit.fake_services import FakeLoop, serve


def settings_for(fake: FakeLoop, data: Path) -> Settings:
    """A gateway on free ports in front of the fake services."""
    return free_settings(Settings(data=data)).model_copy(update={"inference_target": fake.target, "learner_target": fake.target})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeLoop, Settings]]:
    with serve(FakeLoop()) as fake:
        settings = settings_for(fake, tmp_path_factory.mktemp("data"))
        with Loop(settings, services=("gateway",)):
            yield fake, settings


@pytest.fixture
def loop(running: tuple[FakeLoop, Settings]) -> FakeLoop:
    fake = running[0]
    target = fake.target
    fake.__init__()
    fake.target = target
    return fake


@pytest.fixture
def http(running: tuple[FakeLoop, Settings], loop: FakeLoop) -> Iterator[httpx.Client]:  # noqa: ARG001 - resets the fake
    with httpx.Client(base_url=f"http://{running[1].gateway_listen}", trust_env=False) as client:
        yield client


def assert_problem(response: httpx.Response, status: int, code: str, field: str = "") -> dict:
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"], problem["code"], problem["field"]) == (status, status, code, field)
    assert problem["detail"]
    return problem


def answer_of(http: httpx.Client) -> dict:
    return http.post("/v1/predict", json={"text": "not bad"}).json()["predictions"][0]


def test_a_text_alone_is_short_for_one_input(http: httpx.Client, loop: FakeLoop):
    short = http.post("/v1/predict", json={"text": "not bad", "store": False, "tags": {"page": "home"}})
    assert short.status_code == 200
    assert loop.requests[-1] == PredictRequest(inputs=[{"text": "not bad"}], store=False, tags={"page": "home"})
    answer = short.json()["predictions"][0]
    assert answer["version"] == 40
    assert answer["feedback_token"] == ""
    assert [score["label"] for score in answer["scores"]] == ["negative", "positive", "neutral"]
    assert len(http.post("/v1/predict", json={"inputs": [{"text": "a"}, {"text": "b"}]}).json()["predictions"]) == 2


def test_an_answer_says_whether_feedback_is_wanted(http: httpx.Client, loop: FakeLoop):
    assert answer_of(http)["feedback_wanted"] is False
    loop.wanted = True
    assert answer_of(http)["feedback_wanted"] is True


def test_one_feedback_and_a_list_are_both_taken_with_either_form_of_an_enum(http: httpx.Client, loop: FakeLoop):
    answer = answer_of(http)
    judged = {"prediction_id": answer["prediction_id"], "feedback_token": answer["feedback_token"]}
    one = http.post("/v1/feedback", json=judged | {"thumb": "down", "feedback_id": "f1"})
    assert one.json() == {"acks": [{"feedback_id": "f1", "status": "accepted", "code": "", "field": "", "reason": ""}]}
    again = http.post("/v1/feedback", json=[judged | {"thumb": "THUMB_DOWN", "feedback_id": "f1"}, judged | {"retraction": {}}])
    assert [ack["status"] for ack in again.json()["acks"]] == ["duplicate", "accepted"]
    assert [feedback.WhichOneof("signal") for feedback in loop.requests[-1].feedback] == ["thumb", "retraction"]


def test_refused_feedback_gives_the_status_of_the_first_only_where_all_are_refused(http: httpx.Client):
    answer = answer_of(http)
    good = {"prediction_id": answer["prediction_id"], "feedback_token": answer["feedback_token"]}
    forged, unknown = good | {"feedback_token": "x", "thumb": "up"}, good | {"correction": {"label": "purple"}}
    problem = assert_problem(http.post("/v1/feedback", json=[forged, unknown]), 403, "PERMISSION_DENIED", "feedback_token")
    assert [ack["code"] for ack in problem["acks"]] == ["PERMISSION_DENIED", "INVALID_ARGUMENT"]
    assert_problem(http.post("/v1/feedback", json=unknown), 400, "INVALID_ARGUMENT", "correction.label")
    mixed = http.post("/v1/feedback", json=[forged, good | {"rating": 0.5}])
    assert (mixed.status_code, [ack["status"] for ack in mixed.json()["acks"]]) == (200, ["rejected", "accepted"])


def test_the_status_of_a_feedback_has_short_names_and_rfc_3339_times(http: httpx.Client):
    answer = answer_of(http)
    body = {"prediction_id": answer["prediction_id"], "feedback_token": answer["feedback_token"], "thumb": "up", "feedback_id": "f"}
    http.post("/v1/feedback", json=body)
    status = http.get(f"/v1/feedback/{answer['prediction_id']}/f").json()
    assert status["state"] in {"joined", "trained", "served"}
    assert datetime.fromisoformat(status["accepted_at"]).tzinfo == UTC
    assert_problem(http.get("/v1/feedback/never/sent"), 404, "NOT_FOUND")


def test_versions_and_the_model_have_integers_as_numbers(http: httpx.Client):
    newest, blessed = http.get("/v1/versions").json()["versions"]
    assert (newest["patch_bytes"], newest["created_at"], newest["current"]) == (912_345, "2023-11-14T22:13:20Z", True)
    assert (blessed["patch_bytes"], blessed["accuracy"]) == (1 << 33, 0.75)
    assert "accuracy" not in newest
    assert (newest["state"], blessed["state"], blessed["pinned"]) == ("rolled_back", "blessed", True)
    assert blessed["scores"][1] == {"split": "feedback", "accuracy": 0.5, "rows": 12}
    assert len(http.get("/v1/versions", params={"limit": 1}).json()["versions"]) == 1
    assert http.get("/v1/model").json()["max_text_bytes"] == 32_768


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("predict", {"txt": "x"}, "txt"),
        ("predict", {"inputs": [{"text": "x"}, {"text": 5}]}, "inputs[1].text"),
        ("predict", {"inputs": [{"text": "x"}, {"text": ""}]}, "inputs[1].text"),
        ("predict", {"inputs": [{"image": "x"}]}, "inputs[0].image"),
        ("predict", {"inputs": {"text": "x"}}, "inputs"),
        ("predict", {"text": "x", "store": "no"}, "store"),
        ("predict", {"text": "x", "tags": {"a": 1}}, "tags.a"),
        ("predict", {"text": "\ud800"}, "inputs[0].text"),
        ("predict", "text", ""),
        ("feedback", {"thumb": "sideways"}, "feedback[0].thumb"),
        ("feedback", {"thumb": 1}, "feedback[0].thumb"),
        ("feedback", {"thumb": "up", "rating": 1}, "feedback[0].rating"),
        ("feedback", [{"thumb": "up"}, {"feedbackId": "camel"}], "feedback[1].feedbackId"),
        ("feedback", {"rating": True}, "feedback[0].rating"),
        ("feedback", {"rating": "0.5"}, "feedback[0].rating"),
        ("feedback", {"correction": "positive"}, "feedback[0].correction"),
        ("feedback", {"correction": {"lable": "positive"}}, "feedback[0].correction.lable"),
        ("feedback", {"retraction": True}, "feedback[0].retraction"),
        ("feedback", {"reasons": ["a", None]}, "feedback[0].reasons[1]"),
        ("feedback", {"created_at": "yesterday"}, "feedback[0].created_at"),
        ("feedback", [5], "feedback[0]"),
    ],
)
def test_what_does_not_fit_the_contract_is_refused_by_its_path(http: httpx.Client, loop: FakeLoop, path: str, body: object, field: str):
    response = http.post(f"/v1/{path}", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert_problem(response, 400, "INVALID_ARGUMENT", field)
    assert loop.judged == {}


@pytest.mark.parametrize("body", [b'{"text": "\xff"}', b"{", b"", b'{"rating": NaN}', b"[" * 100_000, b'{"rating": 1e999}'])
def test_a_body_that_is_not_json_in_utf_8_is_refused(http: httpx.Client, body: bytes):
    response = http.post("/v1/feedback", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_ARGUMENT")


def test_a_body_over_8_mib_is_refused_also_where_it_does_not_say_so(http: httpx.Client, loop: FakeLoop):
    headers = {"Content-Type": "application/json"}
    assert_problem(http.post("/v1/predict", content=b" " * (8 << 20) + b" ", headers=headers), 413, "INVALID_ARGUMENT")
    chunks = (b" " * (1 << 20) for _ in range(9))
    assert_problem(http.post("/v1/predict", content=chunks, headers=headers), 413, "INVALID_ARGUMENT")
    assert http.post("/v1/predict", content=b'{"text": "x"}' + b" " * (7 << 20), headers=headers).status_code == 200
    assert len(loop.requests) == 1


def test_a_body_that_a_form_of_another_site_could_send_is_refused(http: httpx.Client, loop: FakeLoop):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert_problem(http.post("/v1/predict", content=b'{"text": "x"}', headers={"Content-Type": kind}), 415, "INVALID_ARGUMENT")
    assert loop.requests == []


@pytest.mark.parametrize(("limit", "status"), [("0", 400), ("1001", 400), ("many", 400), ("1000", 200)])
def test_the_number_of_versions_is_limited(http: httpx.Client, limit: str, status: int):
    response = http.get("/v1/versions", params={"limit": limit})
    assert response.status_code == status
    if status == 400:
        assert_problem(response, 400, "INVALID_ARGUMENT", "limit")


def test_what_is_not_there_is_a_problem_too(http: httpx.Client):
    assert_problem(http.get("/v2/predict"), 404, "NOT_FOUND")
    assert_problem(http.get("/static/nothing.js"), 404, "NOT_FOUND")
    assert http.get("/static/..%2fapp.py").status_code == 404
    refused = http.get("/v1/predict")
    assert_problem(refused, 405, "UNIMPLEMENTED")
    assert refused.headers["allow"] == "POST"


def test_a_full_queue_says_when_to_come_back(http: httpx.Client, loop: FakeLoop):
    loop.fail_next = [Overloaded("the queue is full", retry_after=2.2), DeadlinePassed("too late")]
    full = http.post("/v1/predict", json={"text": "x"})
    assert_problem(full, 429, "RESOURCE_EXHAUSTED")
    assert full.headers["retry-after"] == "3"
    assert_problem(http.post("/v1/predict", json={"text": "x"}), 504, "DEADLINE_EXCEEDED")


def test_internals_of_a_service_in_trouble_stay_in_the_log(http: httpx.Client, loop: FakeLoop):
    loop.fail_next = [Unavailable("10.0.0.7:50051 refused the connection")]
    assert "10.0.0.7" not in assert_problem(http.post("/v1/predict", json={"text": "x"}), 503, "UNAVAILABLE")["detail"]


def test_only_pages_of_this_machine_may_read_answers(http: httpx.Client):
    def allowed(origin: str) -> str | None:
        return http.get("/v1/model", headers={"Origin": origin}).headers.get("access-control-allow-origin")

    for local in ("http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:5173"):
        assert allowed(local) == local
    for foreign in ("https://example.com", "http://localhost.example.com", "http://localhost:3000.example.com", "null"):
        assert allowed(foreign) is None
    preflight = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    assert http.options("/v1/feedback", headers=preflight).status_code == 200
    assert http.options("/v1/feedback", headers=preflight | {"Origin": "https://example.com"}).status_code == 400


def test_every_answer_carries_the_security_headers_and_pages_load_nothing_from_elsewhere(http: httpx.Client):
    for path in ("/", "/docs", "/static/page.js", "/static/page.css", "/static/docs.js", "/v1/model", "/nothing"):
        response = http.get(path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        if path.startswith(("/static", "/docs")) or path == "/":
            assert response.status_code == 200
            assert "https://" not in response.text.replace("https://www.rfc-editor.org", "")
            assert "onclick=" not in response.text
            assert " style=" not in response.text


def test_the_openapi_document_describes_the_contracts_messages(http: httpx.Client):
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/predict",
        "/v1/feedback",
        "/v1/feedback/{prediction_id}/{feedback_id}",
        "/v1/intake/langfuse/scores",
        "/v1/model",
        "/v1/versions",
    }
    schemas = document["components"]["schemas"]
    assert schemas["Feedback"]["properties"]["thumb"]["enum"] == ["up", "down"]
    assert schemas["Feedback"]["properties"]["created_at"]["format"] == "date-time"
    assert schemas["Version"]["properties"]["state"]["enum"] == ["held", "published", "canary", "blessed", "rolled_back", "replaced"]
    assert schemas["FeedbackAck"]["properties"]["status"]["enum"] == ["accepted", "duplicate", "rejected"]
    assert schemas["PredictRequest"]["properties"]["inputs"]["items"] == {"$ref": "#/components/schemas/Input"}
    named = set(references(document))
    assert named <= {f"#/components/schemas/{name}" for name in schemas}
    assert http.post("/v1/predict", json=document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["example"])


def references(part: object) -> Iterator[str]:
    """Every `$ref` in a JSON document."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def test_requests_are_counted_by_route_with_no_label_that_a_caller_chooses(http: httpx.Client, running: tuple[FakeLoop, Settings]):
    for guess in ("a", "b"):
        http.get(f"/v1/feedback/{guess}/{guess}")
        http.get(f"/{guess}")
    metrics = httpx.get(f"http://{running[1].gateway_ops_listen}/metrics", trust_env=False).text
    assert 'liveloop_build_info{service="gateway",version="' in metrics
    assert 'route="/v1/feedback/{prediction_id}/{feedback_id}",status="404"' in metrics
    assert 'route="other",status="404"' in metrics
    assert 'route="/a"' not in metrics


def test_every_grpc_status_has_an_http_status():
    assert set(HTTP_STATUS) == {code.name for code in grpc.StatusCode} - {"OK"}
    for code in HTTP_STATUS:
        assert rpc.error_of(code, "x").code == code


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.builds(Timestamp, seconds=st.integers(-62_135_596_800, 253_402_300_799), nanos=st.integers(0, 999_999_999))
signals = st.one_of(
    st.fixed_dictionaries({"thumb": st.sampled_from(Thumb.values())}),
    st.fixed_dictionaries({"rating": st.floats(-1e30, 1e30)}),
    st.fixed_dictionaries({"correction": st.builds(Correction, label=texts)}),
    st.just({"retraction": Retraction()}),
    st.just({}),
)


@given(signals, texts, st.lists(texts, max_size=3), st.none() | times)
def test_what_is_written_as_json_reads_back_as_the_same_message(signal: dict, comment: str, reasons: list[str], at: Timestamp | None):
    message = Feedback(comment=comment, reasons=reasons, created_at=at, **signal)
    assert from_json(Feedback, json.loads(json.dumps(to_json(message)))) == message


@given(st.integers(0, (1 << 64) - 1), st.none() | st.floats(0, 1), st.booleans())
def test_64_bit_integers_are_numbers_and_absent_values_stay_absent(size: int, accuracy: float | None, blessed: bool):
    message = ListVersionsResponse(versions=[Version(patch_bytes=size, accuracy=accuracy, blessed=blessed)])
    written = to_json(message)
    assert written["versions"][0]["patch_bytes"] == size
    assert from_json(ListVersionsResponse, written) == message


@pytest.mark.parametrize(
    ("body", "field"), [({"versions": [{"version": -1}]}, "versions[0].version"), ({"versions": [{"version": 1.5}]}, "versions[0].version")]
)
def test_integers_out_of_range_are_refused(body: dict, field: str):
    with pytest.raises(InvalidInput) as refused:
        from_json(ListVersionsResponse, body)
    assert refused.value.field == field


def gateway(tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "services.gateway"]
    return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_port_in_use_or_a_wrong_address_is_one_sentence_and_exit_code_2(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for setting, value in (("GATEWAY_LISTEN", address), ("GATEWAY_OPS_LISTEN", address), ("GATEWAY_LISTEN", "everywhere")):
            free = free_settings(Settings(data=tmp_path))
            environment = {"LIVELOOP_GATEWAY_LISTEN": free.gateway_listen, "LIVELOOP_GATEWAY_OPS_LISTEN": free.gateway_ops_listen}
            process = gateway(tmp_path, **environment | {f"LIVELOOP_{setting}": value})
            _, said = process.communicate(timeout=60)
            last = said.strip().splitlines()[-1]
            assert process.returncode == 2
            assert value in last
            assert "Traceback" not in said


def test_a_stop_finishes_what_is_in_flight_and_exits_with_0(tmp_path: Path):
    with serve(FakeLoop()) as fake, ThreadPoolExecutor(1) as pool:
        settings = settings_for(fake, tmp_path)
        with Loop(settings, services=("gateway",)) as loop:
            fake.answering.clear()
            in_flight = pool.submit(
                httpx.post, f"http://{settings.gateway_listen}/v1/predict", json={"text": "x"}, timeout=60, trust_env=False
            )
            assert fake.asked.wait(60)
            loop.processes["gateway"].send_signal(signal.SIGTERM)
            fake.answering.set()
            assert in_flight.result().status_code == 200
            assert loop.processes["gateway"].wait(60) == 0
