"""Takes in one judgement: token, content, durable storage, ack. Knows the intake and the tokens; knows no gRPC."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from liveloop import tracing
from liveloop.errors import FeedbackConflict, LiveloopError, Overloaded, TokenExpired, TokenForged, Unavailable
from liveloop.events.sqlite import Verdict
from liveloop.telemetry import counter
from liveloop.times import timestamp
from liveloop.v1 import events_pb2, inference_pb2
from services.inference.comments import scrub
from services.inference.requests import check_feedback, score_of, signal_of
from services.inference.tokens import Tokens


class Intake(Protocol):
    """Where events go."""

    def offer(self, event: events_pb2.Event) -> bool:
        """Queue a prediction or a report, without waiting; False when it was shed."""
        ...

    def accept(self, event: events_pb2.Event) -> Future[Verdict]:
        """Queue a feedback; resolves once it is durable. Raises Overloaded at once when the log is full."""
        ...


class Desk:
    """Where judgements are handed in."""

    def __init__(self, intake: Intake, tokens: Tokens, *, labels: Sequence[str], clock: Callable[[], float]) -> None:
        """`labels` are what a correction may name; `clock` is Unix seconds."""
        self._intake = intake
        self._tokens = tokens
        self._labels = frozenset(labels)
        self._clock = clock

    async def take(self, item: events_pb2.Feedback, at: str) -> inference_pb2.FeedbackAck:
        """The ack of the item that stands at `at` in its request; its own faults are in the ack.

        Raises Overloaded or Unavailable when nothing can be stored now.
        """
        item.DiscardUnknownFields()  # what is stored is bounded by the limits of the fields that the contract has
        ack = inference_pb2.FeedbackAck(feedback_id=item.feedback_id.lower() or str(uuid.uuid4()))
        result = "failed"
        try:
            ack.status = await self._store(item, at, ack.feedback_id)
            result = "accepted" if ack.status == inference_pb2.ACK_STATUS_ACCEPTED else "duplicate"
        except (Overloaded, Unavailable):
            raise
        except LiveloopError as error:
            ack.status, result = inference_pb2.ACK_STATUS_REJECTED, "rejected"
            ack.code, ack.field, ack.reason = error.code, error.field, error.reason
        finally:
            counter("feedback_received_total").labels(signal_of(item), result).inc()
        return ack

    async def _store(self, item: events_pb2.Feedback, at: str, feedback_id: str) -> inference_pb2.AckStatus.ValueType:
        try:
            claims = self._tokens.verify(item.feedback_token, item.prediction_id)
        except (TokenForged, TokenExpired) as error:
            error.field = f"{at}.feedback_token"
            raise
        check_feedback(item, at, labels=self._labels)
        verdict = await self._durable(item, feedback_id, claims.asker)
        if verdict is Verdict.ACCEPTED:
            tracing.evaluated(item.prediction_id, score=score_of(item), label=signal_of(item))
        if verdict is Verdict.CONFLICT:
            raise FeedbackConflict("this feedback id came before with other content", field=f"{at}.feedback_id")
        return inference_pb2.ACK_STATUS_DUPLICATE if verdict is Verdict.DUPLICATE else inference_pb2.ACK_STATUS_ACCEPTED

    async def _durable(self, item: events_pb2.Feedback, feedback_id: str, judge: bytes) -> Verdict:
        event = events_pb2.FeedbackEvent(
            feedback=item, judge=judge, accepted_at=timestamp(self._clock()), traceparent=tracing.traceparent()
        )
        event.feedback.feedback_id = feedback_id
        event.feedback.ClearField("feedback_token")
        event.feedback.ClearField("user")
        event.feedback.comment = scrub(item.comment)
        stored = asyncio.wrap_future(self._intake.accept(events_pb2.Event(feedback=event)))
        return await asyncio.shield(stored)  # a caller who goes away takes nothing back
