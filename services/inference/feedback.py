"""Takes in one judgement: who may judge, content, durable storage, ack. Knows the intake and the tokens; knows no gRPC."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from liveloop import tracing
from liveloop.access import Scope, caller
from liveloop.errors import LiveloopError, TokenExpired, TokenForged
from liveloop.telemetry import counter
from liveloop.times import timestamp
from liveloop.v1 import events_pb2, inference_pb2
from services.inference.comments import scrub
from services.inference.intake import VOUCHED, Intake, check_source, refuse, result_of, store
from services.inference.requests import check_feedback, check_judged_by_id, score_of, signal_of
from services.inference.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judges, and on whose word."""

    name: bytes  # keyed hash
    client: str  # the API client that vouches for it; empty where the token does


class FeedbackDesk:
    """Where judgements are handed in."""

    def __init__(self, intake: Intake, tokens: Tokens, *, labels: Sequence[str], clock: Callable[[], float]) -> None:
        """`labels` are what a correction may name; `clock` is Unix seconds."""
        self._intake = intake
        self._tokens = tokens
        self._labels = frozenset(labels)
        self._clock = clock

    async def take(self, item: events_pb2.Feedback, at: str) -> tuple[inference_pb2.FeedbackAck, LiveloopError | None]:
        """The ack of the item that stands at `at` in its request; with the error where it was not stored."""
        item.DiscardUnknownFields()  # what is stored is bounded by the limits of the fields that the contract has
        ack, error = inference_pb2.FeedbackAck(feedback_id=item.feedback_id.lower() or str(uuid.uuid4())), None
        try:
            judge = self._judge(item, at)
            check_feedback(item, at, labels=self._labels)
            event = self._event(item, ack.feedback_id, judge)
            ack.status = await store(self._intake, events_pb2.Event(feedback=event), id_at=f"{at}.feedback_id")
        except LiveloopError as refusal:
            ack, error = refuse(ack, refusal)
        if ack.status == inference_pb2.ACK_STATUS_ACCEPTED:
            tracing.evaluated(item.prediction_id, score=score_of(item), label=signal_of(item))
        counter("feedback_received_total").labels(signal_of(item), result_of(ack, error)).inc()
        return ack, error

    def _judge(self, item: events_pb2.Feedback, at: str) -> Judge:
        """The asker in the token; or whom an API key with the scope `feedback` speaks for.

        Raises TokenForged, TokenExpired, NotEntitled; InvalidInput or NotNow where the id alone is not enough.
        """
        who = caller()
        trusted = who.may(Scope.FEEDBACK)
        if not trusted:
            item.ClearField("user")  # one token with a thousand invented users is one vote
        check_source(item.source, at)
        if trusted and not item.feedback_token:
            check_judged_by_id(item.prediction_id, at, now=self._clock(), window=self._tokens.window)
            name = self._tokens.client(who.client)
        else:
            name = self._asker(item, at)
        if item.user:
            name = self._tokens.asker(user=item.user, session_id="", prediction_id="")
        by_token = item.feedback_token and not item.user and item.source not in VOUCHED
        return Judge(name, "" if by_token else who.client)

    def _asker(self, item: events_pb2.Feedback, at: str) -> bytes:
        try:
            return self._tokens.verify(item.feedback_token, item.prediction_id).asker
        except (TokenForged, TokenExpired) as error:
            error.field = f"{at}.feedback_token"
            raise

    def _event(self, item: events_pb2.Feedback, feedback_id: str, judge: Judge) -> events_pb2.FeedbackEvent:
        event = events_pb2.FeedbackEvent(
            feedback=item,
            judge=judge.name,
            accepted_at=timestamp(self._clock()),
            client=judge.client,
            traceparent=tracing.traceparent(),
        )
        event.feedback.feedback_id = feedback_id
        event.feedback.ClearField("feedback_token")
        event.feedback.ClearField("user")
        event.feedback.comment = scrub(item.comment)
        return event
