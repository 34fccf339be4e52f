"""OpenTelemetry's SDK, started and stopped. Imported only where OTEL_* asks for it; the SDK reads the rest of those variables itself."""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry._logs import Logger
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, ConsoleLogRecordExporter, LogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import Tracer

from liveloop.errors import Misconfigured

_providers: list[TracerProvider | LoggerProvider] = []


def start(service: str, exporters: Mapping[str, str], version: str) -> tuple[Tracer | None, Logger | None]:
    """A tracer and a logger of events for `service`, each where `exporters` (TRACES, LOGS: otlp, console or empty) has one for it.

    Raises Misconfigured for a protocol that is not known.
    """
    resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: f"liveloop-{service}"})
    tracer, events = None, None
    if exporters["TRACES"]:
        spans = TracerProvider(resource=resource, shutdown_on_exit=False)
        is_console = exporters["TRACES"] == "console"
        spans.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()) if is_console else BatchSpanProcessor(_span_exporter()))
        tracer = spans.get_tracer("liveloop", version)
        _providers.append(spans)
    if exporters["LOGS"]:
        logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
        is_console = exporters["LOGS"] == "console"
        logs.add_log_record_processor(
            SimpleLogRecordProcessor(ConsoleLogRecordExporter()) if is_console else BatchLogRecordProcessor(_log_exporter())
        )
        events = logs.get_logger("liveloop", version)
        _providers.append(logs)
    return tracer, events


def stop() -> None:
    """Send what is still to be sent, and end the exporters' threads."""
    while _providers:
        _providers.pop().shutdown()


def _span_exporter() -> SpanExporter:
    if _protocol("TRACES") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

    return OverHttp()


def _log_exporter() -> LogRecordExporter:
    if _protocol("LOGS") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as OverGrpc

        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as OverHttp

    return OverHttp()


def _protocol(signal: str) -> str:
    """The transport of OTLP: HTTP by default, as the specification recommends."""
    name = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    found = os.environ.get(name) or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if found not in ("grpc", "http/protobuf"):
        raise Misconfigured(f"{name} is {found!r}; liveloop knows grpc and http/protobuf")
    return found
