"""Scores in the shape of Langfuse's public API, as feedback. Pure: knows that shape and the contract; knows no route and no HTTP."""

from __future__ import annotations

import uuid
from typing import Any

from liveloop.errors import InvalidInput
from liveloop.v1 import events_pb2
from services.gateway.transcoding import as_text

_IDS = uuid.UUID("9f1c5a52-6f3b-5d0e-8a51-2c7e4b9d6a10")
"""The name space of ids that are no UUIDs."""
_SOURCES = {"API": events_pb2.SOURCE_HUMAN, "ANNOTATION": events_pb2.SOURCE_EXPERT, "EVAL": events_pb2.SOURCE_CODE}
_TYPES = ("NUMERIC", "BOOLEAN", "CATEGORICAL")


def feedback_of(score: Any) -> events_pb2.Feedback:
    """The judgement that a score stands for; whether its label is one of the model's is not known here.

    Raises:
        InvalidInput: it stands for none; names the score's field.
    """
    if not isinstance(score, dict):
        raise InvalidInput("a score is a JSON object")
    name = _text(score, "name")
    if not name:
        raise InvalidInput("the score has no name", field="name")
    prediction_id = _text(score, "observationId") or _text(score, "traceId")
    feedback = events_pb2.Feedback(
        prediction_id=prediction_id, user=_user(score), comment=_text(score, "comment"), source=_source(score), reasons=[name]
    )
    if not prediction_id:
        raise InvalidInput("observationId or traceId has to be the id of the prediction", field="observationId")
    if given := _text(score, "id"):
        feedback.feedback_id = _uuid(given)
    _set_signal(feedback, score)
    return feedback


def _set_signal(feedback: events_pb2.Feedback, score: dict[str, Any]) -> None:
    value = score.get("value")
    kind = _text(score, "dataType") or ("CATEGORICAL" if isinstance(value, str) else "NUMERIC")
    if kind not in _TYPES:
        raise InvalidInput(f"a score of the type {kind!r} says nothing of an answer; {', '.join(_TYPES)} are taken", field="dataType")
    if kind == "CATEGORICAL":
        if not isinstance(value, str) or not value:
            raise InvalidInput(f"{value!r} is not a label, as a CATEGORICAL score is", field="value")
        feedback.correction.label = as_text(value, "value")
        return
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:  # false for NaN too
        raise InvalidInput(f"{value!r} is not a number in [0, 1]", field="value")
    if kind == "NUMERIC":
        feedback.rating = float(value)
    elif value in (0, 1):
        feedback.thumb = events_pb2.THUMB_UP if value else events_pb2.THUMB_DOWN
    else:
        raise InvalidInput(f"{value!r} is neither 0 nor 1, as a BOOLEAN score is", field="value")


def _source(score: dict[str, Any]) -> events_pb2.Source.ValueType:
    given = _text(score, "source") or "API"
    if given not in _SOURCES:
        raise InvalidInput(f"{given!r} is none of {', '.join(_SOURCES)}", field="source")
    return _SOURCES[given]


def _user(score: dict[str, Any]) -> str:
    metadata = score.get("metadata")
    return _text(metadata, "userId") if isinstance(metadata, dict) else ""


def _uuid(given: str) -> str:
    """The id itself where it is a UUID, else one that follows from it: the same score again is a duplicate."""
    try:
        return str(uuid.UUID(given))
    except ValueError:
        return str(uuid.uuid5(_IDS, given))


def _text(score: dict[str, Any], name: str) -> str:
    value = score.get(name)
    return "" if value is None else as_text(value, name)
