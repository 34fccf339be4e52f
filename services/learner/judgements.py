"""A judgement as the table of feedback has it: from a thumb, a labelled row, or silence. Pure; decides nothing about it."""

from __future__ import annotations

import json
import uuid
from typing import NamedTuple

from liveloop.rows import EXAMPLE
from liveloop.times import unix_seconds
from liveloop.v1.events_pb2 import SOURCE_HUMAN, SOURCE_IMPLICIT, THUMB_UP, ExampleEvent, FeedbackEvent
from liveloop.v1.learner_pb2 import FeedbackState as State

NOBODY = b""
"""The judge of a default reward."""
_DEFAULT_REWARDS = uuid.UUID("5b0f8d0e-9a3b-5c61-8e57-3f7a7c1d9a44")
"""The name space of their ids."""

INSERT = """
INSERT OR IGNORE INTO feedback
(prediction_id, feedback_id, judge, accepted_at, signal, rating, label, source, client, reasons, comment, traceparent, state)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
"""Takes the fields of a judgement in their order, and its state."""
REWARD = """
CASE signal WHEN 'up' THEN 1.0 WHEN 'rating' THEN rating WHEN 'correction' THEN feedback.label = predictions.label ELSE 0.0 END
"""
"""How right an answer was by what was said of it, in [0, 1], where `feedback` is joined with `predictions`."""


class Judgement(NamedTuple):
    """What was said, by whom and when; not what becomes of it."""

    prediction_id: str
    feedback_id: str
    judge: bytes
    accepted_at: float
    signal: str  # up, down, rating, correction, retraction; empty: none
    rating: float | None = None
    label: str | None = None  # of a correction
    source: int = SOURCE_HUMAN
    client: str = ""
    reasons: str = "[]"  # JSON: a list of labels
    comment: str = ""
    traceparent: str = ""


def of_feedback(event: FeedbackEvent) -> Judgement:
    """What somebody said of a prediction."""
    feedback = event.feedback
    signal: str = feedback.WhichOneof("signal") or ""
    if signal == "thumb":
        signal = "up" if feedback.thumb == THUMB_UP else "down"
    return Judgement(
        prediction_id=feedback.prediction_id,
        feedback_id=feedback.feedback_id,
        judge=event.judge,
        accepted_at=unix_seconds(event.accepted_at),
        signal=signal,
        rating=feedback.rating if signal == "rating" else None,
        label=feedback.correction.label if signal == "correction" else None,
        source=feedback.source or SOURCE_HUMAN,
        client=event.client,
        reasons=json.dumps(list(feedback.reasons)),
        comment=feedback.comment,
        traceparent=event.traceparent,
    )


def of_example(example: ExampleEvent) -> Judgement:
    """A labelled row: a correction whose prediction is the row itself."""
    return Judgement(
        prediction_id=EXAMPLE + example.example_id,
        feedback_id=example.example_id,
        judge=example.judge,
        accepted_at=unix_seconds(example.accepted_at),
        signal="correction",
        label=example.label,
        source=example.source or SOURCE_HUMAN,
        client=example.client,
        traceparent=example.traceparent,
    )


def of_silence(prediction_id: str, window_ended_at: float, rating: float | None) -> Judgement:
    """The default reward: once, for its id follows from the prediction's."""
    return Judgement(
        prediction_id=prediction_id,
        feedback_id=default_reward_id(prediction_id),
        judge=NOBODY,
        accepted_at=window_ended_at,
        signal="rating",
        rating=rating,
        source=SOURCE_IMPLICIT,
    )


def default_reward_id(prediction_id: str) -> str:
    """The id of the feedback that silence is taken for."""
    return str(uuid.uuid5(_DEFAULT_REWARDS, prediction_id))


def state_name(state: int) -> str:
    """The short lower-case name of a feedback state."""
    return State.Name(state).removeprefix("FEEDBACK_STATE_").lower()  # type: ignore[arg-type]
