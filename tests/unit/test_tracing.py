"""Trace context that is passed on, spans that reach a real OTLP receiver, and judgements as gen_ai.evaluation.result."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from liveloop import tracing
from liveloop.errors import Misconfigured
from tests.collector import Collector, collecting

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def exporting(collector: Collector) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in collector.environment.items():
            patch.setenv(name, value)
        tracing.set_up("test")
        try:
            yield
        finally:
            tracing.shut_down()


def test_without_otel_variables_nothing_of_it_is_imported_and_a_context_is_passed_on_as_it_came() -> None:
    script = (
        "import sys; from liveloop import tracing; tracing.set_up('test', {})\n"
        f"with tracing.span('call', parent={CALLER!r}) as span: print(span.traceparent == tracing.traceparent() == {CALLER!r})\n"
        "tracing.evaluated('p', score=1.0, label='up')\n"
        "print(tracing.traceparent() == '', any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False"]


@pytest.mark.parametrize(
    "value", ["", "00-0", CALLER.upper(), CALLER + "-more", CALLER.replace("b7ad6b7169203331", "0" * 16), "\u0661" * 55]
)
def test_a_context_that_is_not_valid_is_no_context(value: str) -> None:
    assert tracing.from_headers([("traceparent", value)]) == ""


def test_a_binary_header_is_no_context() -> None:
    assert tracing.from_headers([("traceparent", CALLER.encode()), ("other", CALLER)]) == ""


def test_a_span_is_a_child_of_its_parent_and_the_parent_of_what_runs_inside() -> None:
    with collecting() as collector:
        with (
            exporting(collector),
            tracing.span("outer", parent=CALLER, kind="server", a__b=1) as outer,
            tracing.span("inner", links=[CALLER]),
        ):
            assert tracing.traceparent() != outer.traceparent
        found = {span.name: span for span in collector.spans}
        assert found["outer"].parent_span_id.hex() == "b7ad6b7169203331"
        assert found["inner"].parent_span_id == found["outer"].span_id
        assert {span.trace_id.hex() for span in found.values()} == {"0af7651916cd43dd8448eb211c80319c"}
        assert [link.span_id.hex() for link in found["inner"].links] == ["b7ad6b7169203331"]
        assert {one.key: one.value.int_value for one in found["outer"].attributes} == {"a.b": 1}
        assert found["outer"].kind == Span.SPAN_KIND_SERVER


def test_an_empty_parent_begins_a_trace_of_its_own_at_the_time_that_is_named() -> None:
    with collecting() as collector:
        with exporting(collector), tracing.span("call", parent=CALLER), tracing.span("apart", parent="", start=1_000.5):
            pass
        apart = next(span for span in collector.spans if span.name == "apart")
        assert apart.parent_span_id == b""
        assert apart.trace_id.hex() not in CALLER
        assert apart.start_time_unix_nano == 1_000_500_000_000


def test_an_exception_marks_the_span_and_is_passed_on() -> None:
    with collecting() as collector:
        with exporting(collector), pytest.raises(ZeroDivisionError), tracing.span("call", parent=""):
            raise ZeroDivisionError
        assert [span.status.code for span in collector.spans] == [2]
        assert tracing.traceparent() == ""


def test_a_judgement_is_an_evaluation_result_in_the_trace_of_its_call() -> None:
    with collecting() as collector:
        with exporting(collector), tracing.span("call", parent=CALLER):
            tracing.evaluated("prediction-1", score=0.0, label="down")
            tracing.evaluated("prediction-2", score=None, label="correction")
        first, second = sorted(collector.events, key=lambda event: _attributes(event)["gen_ai.response.id"])
        assert first.event_name == "gen_ai.evaluation.result"
        assert first.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
        assert _attributes(first) == {
            "gen_ai.evaluation.name": "user_feedback",
            "gen_ai.evaluation.score.label": "down",
            "gen_ai.evaluation.score.value": 0.0,
            "gen_ai.response.id": "prediction-1",
        }
        assert "gen_ai.evaluation.score.value" not in _attributes(second)


def test_an_unknown_exporter_or_protocol_is_one_clear_sentence() -> None:
    with pytest.raises(Misconfigured, match="OTEL_TRACES_EXPORTER is 'zipkin'"):
        tracing.set_up("test", {"OTEL_TRACES_EXPORTER": "zipkin"})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Misconfigured, match="'thrift'"):
        patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "thrift")
        tracing.set_up("test", {"OTEL_TRACES_EXPORTER": "otlp"})


def test_disabled_is_off_whatever_else_is_set() -> None:
    tracing.set_up("test", {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "zipkin"})
    with tracing.span("call", parent=""):
        assert tracing.traceparent() == ""


def _attributes(event: LogRecord) -> dict[str, str | float]:
    return {one.key: one.value.string_value or one.value.double_value for one in event.attributes}
