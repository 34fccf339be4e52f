"""What a caller may send: every refusal of the contract that needs nothing but the message. Pure; knows no gRPC and no token."""

from __future__ import annotations

import uuid

from liveloop.errors import InvalidInput
from liveloop.v1 import events_pb2, inference_pb2

MAX_ITEMS = 256
_MAX_NAME_BYTES = 256
_MAX_TAGS = 16
_MAX_TAG_BYTES = 64
_MAX_REASONS = 16
_MAX_REASON_BYTES = 64
_MAX_COMMENT_BYTES = 4096


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
        if not text:
            raise InvalidInput("the text is empty", field=f"inputs[{index}].text")
        _check_bytes(f"inputs[{index}].text", text, max_text_bytes)
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
    try:
        item.created_at.ToJsonString()
    except ValueError as error:
        raise InvalidInput("not a time between the years 1 and 9999", field=f"{at}.created_at") from error


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


def _check_bytes(field: str, text: str, limit: int) -> None:
    size = len(text.encode())
    if size > limit:
        raise InvalidInput(f"{size} bytes, at most {limit} are taken", field=field)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
