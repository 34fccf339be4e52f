"""Takes in one labelled row that no prediction preceded. Knows the intake and the checks; knows no gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from uuid_utils import uuid7

from liveloop import tracing
from liveloop.access import caller
from liveloop.errors import LiveloopError
from liveloop.telemetry import counter
from liveloop.times import timestamp
from liveloop.v1 import events_pb2, inference_pb2
from services.inference.intake import Intake, check_source, refuse, result_of, store
from services.inference.requests import check_example
from services.inference.tokens import Tokens


class ExampleDesk:
    """Where labelled rows are handed in."""

    def __init__(self, intake: Intake, tokens: Tokens, *, labels: Sequence[str], max_text_bytes: int, clock: Callable[[], float]) -> None:
        """`labels` are what a row may carry; `clock` is Unix seconds."""
        self._intake = intake
        self._tokens = tokens
        self._labels = frozenset(labels)
        self._max_text_bytes = max_text_bytes
        self._clock = clock

    async def take(self, item: inference_pb2.LabelledExample, at: str) -> tuple[inference_pb2.ExampleAck, LiveloopError | None]:
        """The ack of the item that stands at `at` in its request; with the error where it was not stored."""
        item.DiscardUnknownFields()
        ack, error = inference_pb2.ExampleAck(id=item.id or str(uuid7())), None
        try:
            check_example(item, at, labels=self._labels, max_text_bytes=self._max_text_bytes)
            check_source(item.source, at)
            ack.status = await store(self._intake, events_pb2.Event(example=self._event(item, ack.id)), id_at=f"{at}.id")
        except LiveloopError as refusal:
            ack, error = refuse(ack, refusal)
        counter("examples_received_total").labels(result_of(ack, error)).inc()
        return ack, error

    def _event(self, item: inference_pb2.LabelledExample, example_id: str) -> events_pb2.ExampleEvent:
        client = caller().client
        named = item.user and self._tokens.asker(user=item.user, session_id="", prediction_id="")
        event = events_pb2.ExampleEvent(
            example_id=example_id,
            input=item.input,
            label=item.label,
            judge=named or self._tokens.client(client),
            accepted_at=timestamp(self._clock()),
            source=item.source,
            client=client,
            traceparent=tracing.traceparent(),
        )
        if item.HasField("created_at"):
            event.created_at.CopyFrom(item.created_at)
        return event
