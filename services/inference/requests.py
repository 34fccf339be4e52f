"""What a caller may send: every refusal of the contract that needs nothing but the message. Pure; knows no gRPC and no token."""

from __future__ import annotations

import uuid

from google.protobuf.timestamp_pb2 import Timestamp

from liveloop.errors import InvalidInput, NotNow
from liveloop.v1 import events_pb2, inference_pb2

MAX_ITEMS = 256
_MAX_EXAMPLE_ID_BYTES = 64
_MAX_NAME_BYTES = 256
_MAX_TAGS = 16
_MAX_TAG_BYTES = 64
_MAX_REASONS = 16
_MAX_REASON_BYTES = 64
_MAX_COMMENT_BYTES = 4096
_CLOCKS_DIFFER = 60.0
"""Seconds by which the clock of another pod may be ahead."""


def texts_of(request: inference_pb2.PredictRequest, *, max_text_bytes: int) -> list[str]:
    """The texts of a request. Raises InvalidInput naming the first field at fault.

    Fields that the contract does not have are dropped: what is stored is bounded by the limits of those it has.
    """
    request.DiscardUnknownFields()
    check_count("inputs", len(request.inputs))
    for name in ("user", "session_id"):
        _check_bytes(name, getattr(request, name), _MAX_NAME_BYTES)
    if len(request.tags) > _MAX_TAGS:
        raise InvalidInput(f"{len(request.tags)} tags, at most {_MAX_TAGS} are kept", field="tags")
    for key, value in request.tags.items():
        _check_bytes("tags", key, _MAX_TAG_BYTES)
        _check_bytes("tags", value, _MAX_TAG_BYTES)
    texts = [item.text for item in request.inputs]
    for index, text in enumerate(texts):
        _check_text(f"inputs[{index}].text", text, max_text_bytes)
    return texts


def check_feedback(item: events_pb2.Feedback, at: str, *, labels: frozenset[str]) -> None:
    """Raise InvalidInput naming the field of `item`, which stands at `at` in its request, that cannot be used."""
    if item.feedback_id and not _is_uuid(item.feedback_id):
        raise InvalidInput("the feedback id is not a UUID", field=f"{at}.feedback_id")
    _check_signal(item, at, labels)
    if len(item.reasons) > _MAX_REASONS:
        raise InvalidInput(f"{len(item.reasons)} reasons, at most {_MAX_REASONS} are kept", field=f"{at}.reasons")
    for index, reason in enumerate(item.reasons):
        _check_bytes(f"{at}.reasons[{index}]", reason, _MAX_REASON_BYTES)
    _check_bytes(f"{at}.comment", item.comment, _MAX_COMMENT_BYTES)
    _check_bytes(f"{at}.user", item.user, _MAX_NAME_BYTES)
    _check_time(f"{at}.created_at", item.created_at)


def check_example(item: inference_pb2.LabelledExample, at: str, *, labels: frozenset[str], max_text_bytes: int) -> None:
    """Raise InvalidInput naming the field of `item`, which stands at `at` in its request, that cannot be used."""
    _check_bytes(f"{at}.id", item.id, _MAX_EXAMPLE_ID_BYTES)
    if not item.id.isprintable():
        raise InvalidInput("the id has characters that cannot be printed", field=f"{at}.id")
    _check_text(f"{at}.input.text", item.input.text, max_text_bytes)
    if item.label not in labels:
        raise InvalidInput(f"the model has no label {item.label!r}", field=f"{at}.label")
    _check_bytes(f"{at}.user", item.user, _MAX_NAME_BYTES)
    _check_time(f"{at}.created_at", item.created_at)


def check_judged_by_id(prediction_id: str, at: str, *, now: float, window: float) -> None:
    """Raise InvalidInput unless the id is one that a prediction here can have, NotNow when it can no longer be judged.

    `now` is Unix seconds, `window` seconds: a UUIDv7 says when it was made (RFC 9562), by the clock of the pod that made it.
    """
    field = f"{at}.prediction_id"
    if not _is_uuid(prediction_id) or uuid.UUID(prediction_id).version != 7 or prediction_id != prediction_id.lower():
        raise InvalidInput("the prediction id is not a UUIDv7 in lower case, as predictions here have", field=field)
    age = now - (uuid.UUID(prediction_id).int >> 80) / 1000
    if age < -_CLOCKS_DIFFER:
        raise InvalidInput("the prediction id is of a time to come", field=field)
    if age > window:
        raise NotNow("the time in which this answer could be judged is over", field=field)


def signal_of(item: events_pb2.Feedback) -> str:
    """How metrics call the signal: up, down, rating, correction, retraction, none."""
    kind = item.WhichOneof("signal") or "none"
    if kind != "thumb":
        return kind
    return {events_pb2.THUMB_UP: "up", events_pb2.THUMB_DOWN: "down"}.get(item.thumb, "none")


def score_of(item: events_pb2.Feedback) -> float | None:
    """How good the answer was, in [0, 1]; None where the signal does not say."""
    if item.WhichOneof("signal") == "rating":
        return item.rating
    return {"up": 1.0, "down": 0.0}.get(signal_of(item))


def check_count(field: str, count: int) -> None:
    """Raise InvalidInput unless a call has 1 to 256 items."""
    if not 1 <= count <= MAX_ITEMS:
        raise InvalidInput(f"{count} items, a call takes 1 to {MAX_ITEMS}", field=field)


def _check_signal(item: events_pb2.Feedback, at: str, labels: frozenset[str]) -> None:
    match item.WhichOneof("signal"):
        case None:
            raise InvalidInput("there is no signal: a thumb, a rating, a correction or a retraction", field=f"{at}.signal")
        case "thumb" if item.thumb not in (events_pb2.THUMB_UP, events_pb2.THUMB_DOWN):
            raise InvalidInput("the thumb is neither up nor down", field=f"{at}.thumb")
        case "rating" if not 0 <= item.rating <= 1:  # false for NaN too
            raise InvalidInput(f"the rating {item.rating} is not in [0, 1]", field=f"{at}.rating")
        case "correction" if item.correction.label not in labels:
            raise InvalidInput(f"the model has no label {item.correction.label!r}", field=f"{at}.correction.label")


def _check_text(field: str, text: str, max_text_bytes: int) -> None:
    if not text:
        raise InvalidInput("the text is empty", field=field)
    _check_bytes(field, text, max_text_bytes)


def _check_time(field: str, time: Timestamp) -> None:
    try:
        time.ToJsonString()
    except ValueError as error:
        raise InvalidInput("not a time between the years 1 and 9999", field=field) from error


def _check_bytes(field: str, text: str, limit: int) -> None:
    size = len(text.encode())
    if size > limit:
        raise InvalidInput(f"{size} bytes, at most {limit} are taken", field=field)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
