"""Where events go, and what is told to those who handed them in. Knows the log's verdicts and the acks; knows no token and no gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from liveloop.access import Scope, caller
from liveloop.errors import FeedbackConflict, LiveloopError, NotEntitled, Overloaded, Unavailable
from liveloop.events.sqlite import Verdict
from liveloop.v1 import events_pb2, inference_pb2

VOUCHED = (events_pb2.SOURCE_EXPERT, events_pb2.SOURCE_CODE)
"""Sources that an API key with the scope `feedback` must vouch for."""

Ack = TypeVar("Ack", inference_pb2.FeedbackAck, inference_pb2.ExampleAck)


class Intake(Protocol):
    """Where events go."""

    def offer(self, event: events_pb2.Event) -> bool:
        """Queue a prediction or a report, without waiting; False when it was shed."""
        ...

    def accept(self, event: events_pb2.Event) -> Future[Verdict]:
        """Queue a feedback or a labelled row; resolves once it is durable. Raises Overloaded at once when the log is full."""
        ...


async def store(intake: Intake, event: events_pb2.Event, *, id_at: str) -> inference_pb2.AckStatus.ValueType:
    """Durably; `id_at` is where the event's id stands in the request.

    Raises FeedbackConflict, and Overloaded or Unavailable when nothing can be stored now.
    """
    stored = asyncio.wrap_future(intake.accept(event))
    verdict = await asyncio.shield(stored)  # a caller who goes away takes nothing back
    if verdict is Verdict.CONFLICT:
        raise FeedbackConflict("this id came before with other content", field=id_at)
    return inference_pb2.ACK_STATUS_DUPLICATE if verdict is Verdict.DUPLICATE else inference_pb2.ACK_STATUS_ACCEPTED


def check_source(source: events_pb2.Source.ValueType, at: str) -> None:
    """Raise NotEntitled where the caller's word is not enough for this source."""
    if source in VOUCHED and not caller().may(Scope.FEEDBACK):
        raise NotEntitled("an expert or a program speaks with an API key of the scope feedback", field=f"{at}.source")


def refuse(ack: Ack, error: LiveloopError) -> tuple[Ack, LiveloopError]:
    """What becomes of an item that was not stored: its ack says so, and the error goes along."""
    ack.status = inference_pb2.ACK_STATUS_REJECTED
    ack.code, ack.field, ack.reason = error.code, error.field, error.reason
    return ack, error


def result_of(ack: inference_pb2.FeedbackAck | inference_pb2.ExampleAck, error: LiveloopError | None) -> str:
    """How metrics call what became of an item."""
    if error is None:
        return "accepted" if ack.status == inference_pb2.ACK_STATUS_ACCEPTED else "duplicate"
    return "failed" if isinstance(error, Overloaded | Unavailable) else "rejected"


def acks_of(taken: Sequence[tuple[Ack, LiveloopError | None]]) -> list[Ack]:
    """The acks of a call.

    Raises Overloaded or Unavailable where an item could not be stored now and no other was: then all of it can be sent again. Where one
    was stored, that must be told: sent again under an id made here, it would be stored twice.
    """
    later = next((error for _, error in taken if isinstance(error, Overloaded | Unavailable)), None)
    if later is not None and not any(ack.status == inference_pb2.ACK_STATUS_ACCEPTED for ack, _ in taken):
        raise later
    return [ack for ack, _ in taken]
