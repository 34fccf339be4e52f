"""Trace context from the click to the flip, and spans where OTEL_* asks for them. Knows OpenTelemetry; knows no service.

Without OTEL_TRACES_EXPORTER, OTEL_LOGS_EXPORTER or an OTLP endpoint nothing of OpenTelemetry is imported: a caller's context is passed on
as it came, and a span costs a few microseconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from liveloop import __version__
from liveloop.errors import Misconfigured

if TYPE_CHECKING:
    from opentelemetry._logs import Logger
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

HEADER = "traceparent"
"""Where a context travels: the HTTP header, the gRPC metadata (W3C Trace Context)."""
Kind = Literal["internal", "server", "client"]

_VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SIGNALS = ("TRACES", "LOGS")
_here: ContextVar[str] = ContextVar("traceparent", default="")


@dataclass(slots=True)
class _Exporting:
    """What there is to export with; None: that signal is off."""

    tracer: Tracer | None = None
    events: Logger | None = None


_exporting = _Exporting()


class Span:
    """What is under way. `traceparent` names it to others; empty where there is no trace."""

    def __init__(self, traceparent: str, inner: Any = None) -> None:
        self.traceparent = traceparent
        self._inner = inner

    def tell(self, name: str = "", **attributes: str | float) -> None:
        """Say more about it: another name, attributes (a double underscore stands for a dot)."""
        if self._inner is not None:
            self._inner.set_attributes(_dotted(attributes))
            if name:
                self._inner.update_name(name)


def traceparent() -> str:
    """The context of what is under way here, to send with a call; empty where there is none."""
    return _here.get()


def from_headers(headers: Iterable[tuple[str, Any]]) -> str:
    """The context that came with a call, in HTTP headers or gRPC metadata; empty where there is none, or none that is valid."""
    found = next((value for name, value in headers if name == HEADER), "")
    return found if isinstance(found, str) and _VALID.fullmatch(found) else ""


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    links: Iterable[str] = (),
    kind: Kind = "internal",
    start: float | None = None,
    **attributes: str | float,
) -> Iterator[Span]:
    """What runs inside is one span of `parent`'s trace: of what is under way where None, of a trace of its own where empty.

    `links` are contexts that led here; `start` is Unix seconds, now where None. An exception marks the span and is passed on.
    """
    parent = traceparent() if parent is None else parent
    if _exporting.tracer is None:
        made = Span(parent)
        with _at(parent):
            yield made
        return
    from opentelemetry import trace

    inner = _exporting.tracer.start_span(
        name,
        context=_context(parent),
        kind=trace.SpanKind[kind.upper()],
        attributes=_dotted(attributes),
        links=[trace.Link(trace.get_current_span(_context(link)).get_span_context()) for link in links if link],
        start_time=None if start is None else int(start * 1e9),
    )
    with trace.use_span(inner, end_on_exit=True):
        own = inner.get_span_context()
        own_parent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{int(own.trace_flags):02x}"
        with _at(own_parent):
            yield Span(own_parent, inner)


def evaluated(prediction_id: str, *, score: float | None, label: str) -> None:
    """Emit a judgement as the event `gen_ai.evaluation.result` of OpenTelemetry's conventions for generative AI (in development there).

    `score` is in [0, 1], None where the judgement is no rating; `label` is what was said: up, down, rating, correction, retraction.
    """
    if _exporting.events is None:
        return
    from opentelemetry._logs import LogRecord, SeverityNumber

    attributes: dict[str, str | float] = {
        "gen_ai.evaluation.name": "user_feedback",
        "gen_ai.evaluation.score.label": label,
        "gen_ai.response.id": prediction_id,
    }
    if score is not None:
        attributes["gen_ai.evaluation.score.value"] = score
    event = LogRecord(
        event_name="gen_ai.evaluation.result", context=_context(traceparent()), severity_number=SeverityNumber.INFO, attributes=attributes
    )
    _exporting.events.emit(event)


def set_up(service: str, environment: Mapping[str, str] = os.environ) -> None:
    """Export as the standard OTEL_* variables say, if they do; `service` is the name unless OTEL_SERVICE_NAME gives another.

    Raises Misconfigured where they ask for what is not installed, or for an exporter that is not known.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    exporters = {signal: _exporter(signal, environment) for signal in _SIGNALS}
    if any(exporters.values()):
        from liveloop import tracing_sdk

        _exporting.tracer, _exporting.events = tracing_sdk.start(service, exporters, __version__)


def shut_down() -> None:
    """Send what is still to be sent."""
    if _exporting.tracer is not None or _exporting.events is not None:
        from liveloop import tracing_sdk

        tracing_sdk.stop()
        _exporting.tracer = _exporting.events = None


def _exporter(signal: str, environment: Mapping[str, str]) -> str:
    """The exporter of one signal: as named, else OTLP where an endpoint is; empty for none."""
    named = environment.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    if named not in ("", "none", "otlp", "console"):
        raise Misconfigured(f"OTEL_{signal}_EXPORTER is {named!r}; liveloop knows otlp, console and none")
    has_endpoint = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environment.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return "" if named == "none" else named or ("otlp" if has_endpoint else "")


@contextmanager
def _at(here: str) -> Iterator[None]:
    before = _here.set(here)
    try:
        yield
    finally:
        _here.reset(before)


def _context(parent: str) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({HEADER: parent} if parent else {}, context=Context())


def _dotted(attributes: Mapping[str, str | float]) -> dict[str, str | float]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
