"""One thumb through three processes in one trace: from the click to the step and the flip, received by a real OTLP collector."""

import uuid

import httpx
import pytest

from tests.collector import collecting
from tests.e2e.conftest import NewLoop
from tests.e2e.running import wait_for

TRACE, CLICK = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_trace_of_a_click_goes_on_to_the_step_and_the_flip(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        loop = new_loop()
        prediction = loop.predict("a film to be traced")
        thumb = {
            "feedback_id": str(uuid.uuid4()),
            "prediction_id": prediction.prediction_id,
            "feedback_token": prediction.feedback_token,
            "thumb": "down",
        }
        answer = httpx.post(f"{loop.http_url}/v1/feedback", json=thumb, headers={"traceparent": f"00-{TRACE}-{CLICK}-01"})
        assert answer.json()["acks"][0]["status"] == "accepted"

        def of_the_click() -> dict[str, str]:
            """The process of each span of that trace, by name."""
            return {span.name: collector.services[span.span_id] for span in collector.spans if span.trace_id.hex() == TRACE}

        submit = "liveloop.v1.InferenceService/SubmitFeedback"
        parts = {"POST /v1/feedback": "liveloop-gateway", submit: "liveloop-inference", "learn": "liveloop-learner"}
        wait_for(lambda: of_the_click() == parts, "the click, its acceptance and what was learnt from it are in its trace")
        learn = next(span for span in collector.spans if span.name == "learn")
        wait_for(lambda: any(span.name == "flip" and span.parent_span_id for span in collector.spans), "the flip is traced")
        flip = next(span for span in collector.spans if span.name == "flip" and span.parent_span_id)
        assert [link.span_id for link in learn.links] == [flip.parent_span_id]
        step = next(span for span in collector.spans if span.span_id == flip.parent_span_id)
        assert (step.name, collector.services[step.span_id], collector.services[flip.span_id]) == (
            "step",
            "liveloop-learner",
            "liveloop-inference",
        )
        assert [link.trace_id.hex() for link in step.links] == [TRACE]
        wait_for(lambda: [event.event_name for event in collector.events] == ["gen_ai.evaluation.result"], "the judgement is an event")
        assert collector.events[0].trace_id.hex() == TRACE
