"""Events as the tests send them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from liveloop.v1.events_pb2 import Event, Feedback, FeedbackEvent, Input, PredictionEvent


def prediction(number: int, *, text: str = "") -> Event:
    return Event(prediction=PredictionEvent(prediction_id=f"prediction-{number}", input=Input(text=text), label="positive"))


def feedback(number: int, feedback_id: str = "f", *, rating: float = 1.0, judge: bytes = b"judge", seconds: int = 0) -> Event:
    said = Feedback(prediction_id=f"prediction-{number}", feedback_id=feedback_id, rating=rating, created_at=Timestamp(seconds=seconds))
    return Event(feedback=FeedbackEvent(feedback=said, judge=judge))
