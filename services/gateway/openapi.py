"""What /docs shows: JSON schemas derived from the contract's messages, with a sentence for what a caller fills in. Knows no handler."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from google.protobuf.descriptor import FieldDescriptor

from liveloop.v1 import inference_pb2, learner_pb2
from services.gateway.transcoding import Field, is_map, short_name

DESCRIPTION = (
    "Answers from a model that learns from its users while it serves them. Ask with `POST /v1/predict`, judge the answer with "
    "`POST /v1/feedback` and its `feedback_token`, and follow the judgement with `GET /v1/feedback/...` until it is `served`. "
    "Names are snake_case, integers are numbers, times are RFC 3339; unknown fields are refused. "
    "Errors are problem+json with the gRPC `code` and the `field` at fault."
)
_EXAMPLE_ID = "019a8f0e-5b2c-7cc3-9d0a-6a2f8e1c4b7d"
_NOTES = {
    "Input.text": "UTF-8, not empty, at most max_text_bytes bytes.",
    "PredictRequest.inputs": "1 to 256, answered in this order.",
    "PredictRequest.user": "Who asks; kept only as a keyed hash. At most 256 bytes.",
    "PredictRequest.session_id": "Stands in for user where that is empty.",
    "PredictRequest.store": "false: answered, not logged, cannot be judged.",
    "PredictRequest.tags": "Kept with the prediction; at most 16.",
    "Prediction.version": "The one version of the weights that computed this.",
    "Prediction.scores": "All labels, best first; they sum to 1.",
    "Prediction.propensity": "Probability with which the serving policy chose the label.",
    "Prediction.truncated": "The text was longer than the model reads and was cut.",
    "Prediction.feedback_token": "The authority to judge this answer; empty when it cannot be judged.",
    "Prediction.feedback_wanted": "A judgement of this answer would teach more than most: ask for it.",
    "Feedback.feedback_id": "A UUID of your choice: sent again, it counts once. Made by the server when empty.",
    "Feedback.prediction_id": "The prediction that is judged.",
    "Feedback.feedback_token": "As it came with the prediction.",
    "Feedback.user": "Ignored without an API key: the token names the judge.",
    "Feedback.thumb": "One of the four signals; exactly one is needed.",
    "Feedback.rating": "How right, in [0, 1]: 0.5 says nothing.",
    "Feedback.correction": "What it should have been.",
    "Feedback.retraction": "{}: takes back what this judge said before.",
    "Feedback.reasons": "At most 16, of at most 64 bytes.",
    "Feedback.comment": "Never trained on; at most 4,096 bytes.",
    "FeedbackAck.status": "accepted: it is durable.",
    "FeedbackAck.code": "The name of a gRPC status, where rejected.",
    "GetFeedbackStatusResponse.version": "The first version that includes it; 0 before.",
    "GetFeedbackStatusResponse.served_at": "When the first process began to serve a version that includes it.",
    "GetModelResponse.blessed_version": "The newest version that passed the full evaluation.",
    "Version.kind": "init, train, settle, consolidate, reset or rebase.",
    "Version.state": "held: never published; canary: current, served to the canary's share alone; rolled_back: undone later; "
    "replaced: rebuilt without somebody.",
    "Version.pinned": "Kept until it is unpinned.",
    "SplitScore.split": "task, feedback (the held-out tenth), or a slice that the operator named.",
    "SplitScore.accuracy": "Share of right answers, in [0, 1].",
    "SplitScore.rows": "Rows answered.",
    "Version.accuracy": "On the task's validation data; absent where it was not evaluated.",
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One sentence."},
        "code": {"type": "string", "description": "The name of a gRPC status."},
        "field": {"type": "string", "description": "The field at fault, as inputs[3].text; else empty."},
        "acks": {"type": "array", "items": {"$ref": "#/components/schemas/FeedbackAck"}, "description": "Where all feedback was refused."},
    },
}


def complete(app: FastAPI) -> None:
    """Add the schemas of the contract's messages to the document that the application describes itself with."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        document["components"] = {"schemas": _schemas()}
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            operation["responses"].pop("422", None)  # FastAPI's own way to refuse, which ours replaces
        return document

    app.openapi = openapi  # type: ignore[method-assign] # how FastAPI is extended


def _schemas() -> dict[str, Any]:
    """The schemas of all messages that the routes name, and of those inside them."""
    found: dict[str, Any] = {"Problem": _PROBLEM}
    waiting: list[Any] = [
        message.DESCRIPTOR
        for message in (
            inference_pb2.PredictRequest,
            inference_pb2.PredictResponse,
            inference_pb2.SubmitFeedbackRequest,
            inference_pb2.SubmitFeedbackResponse,
            inference_pb2.GetModelResponse,
            learner_pb2.GetFeedbackStatusResponse,
            learner_pb2.ListVersionsResponse,
        )
    ]
    while waiting:
        message = waiting.pop()
        if message.name not in found:
            fields = {field.name: _schema(field) for field in message.fields}
            found[message.name] = {"type": "object", "properties": fields, "additionalProperties": False}
            waiting += [field.message_type for field in message.fields if _is_message(field)]
    return dict(sorted(found.items()))


def _schema(field: Field) -> dict[str, Any]:
    note = _NOTES.get(f"{field.containing_type.name}.{field.name}")
    described = {"description": note} if note else {}
    if is_map(field):
        return {"type": "object", "additionalProperties": {"type": "string"}} | described
    one = _schema_of_one(field)
    return ({"type": "array", "items": one} if field.is_repeated else one) | described


def _schema_of_one(field: Field) -> dict[str, Any]:
    if _is_message(field):
        return {"$ref": f"#/components/schemas/{field.message_type.name}"}
    if field.message_type:
        return {"type": "string", "format": "date-time"}
    if field.enum_type:
        return {"type": "string", "enum": [short_name(field.enum_type, value.name) for value in field.enum_type.values if value.number]}
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return {"type": "number"}
    names = {FieldDescriptor.CPPTYPE_STRING: "string", FieldDescriptor.CPPTYPE_BOOL: "boolean"}
    return {"type": names.get(field.cpp_type, "integer")}


def _is_message(field: Field) -> bool:
    """A message of the contract: no map, and no time, which JSON writes as a string."""
    return bool(field.message_type) and not is_map(field) and field.message_type.full_name != "google.protobuf.Timestamp"


def _route(summary: str, response: str, errors: dict[int, str], request: dict[str, Any] | None = None) -> dict[str, Any]:
    problems = {
        status: {"description": text, "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
        for status, text in errors.items()
    }
    answer = {"description": "OK", "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{response}"}}}}
    extra = {"requestBody": {"required": True, "content": {"application/json": request}}} if request else {}
    return {"summary": summary, "responses": {200: answer} | problems, "openapi_extra": extra}


_AWAY = {503: "The service behind cannot be reached.", 504: "It did not answer in time."}
_BODY = {413: "The body is too large.", 415: "The body is not application/json.", 429: "Full; Retry-After says when to try again."}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/predict": _route(
        "Answer one or many texts",
        "PredictResponse",
        {400: "An input cannot be used; `field` names it."} | _BODY | _AWAY,
        {"schema": {"$ref": "#/components/schemas/PredictRequest"}, "example": {"inputs": [{"text": "not bad at all"}], "user": "ann"}},
    ),
    "/v1/feedback": _route(
        "Judge answers: one object or a list",
        "SubmitFeedbackResponse",
        {
            400: "All were refused.",
            403: "The token is missing, forged, or of another prediction.",
            409: "The id came before with other content.",
        }
        | _BODY
        | _AWAY,
        {
            "schema": {
                "oneOf": [
                    {"$ref": "#/components/schemas/Feedback"},
                    {"type": "array", "items": {"$ref": "#/components/schemas/Feedback"}},
                    {"$ref": "#/components/schemas/SubmitFeedbackRequest"},
                ]
            },
            "example": {"prediction_id": _EXAMPLE_ID, "feedback_token": "eyJhbGciOi...", "thumb": "down"},
        },
    ),
    "/v1/feedback/{prediction_id}/{feedback_id}": _route(
        "What became of a feedback", "GetFeedbackStatusResponse", {404: "Not read yet, or never sent."} | _AWAY
    ),
    "/v1/intake/langfuse/scores": _route(
        "Take a score in the shape of Langfuse's API",
        "FeedbackAck",
        {
            400: "It stands for no judgement, or the answer can no longer be judged; `field` says why.",
            401: "There is no key in the header Authorization, or it is not known.",
            403: "The key lacks the scope feedback.",
            409: "The id came before with other content.",
        }
        | _BODY
        | _AWAY,
        {
            "schema": {"type": "object"},
            "example": {"id": "s-1", "traceId": _EXAMPLE_ID, "name": "helpful", "value": 1, "dataType": "BOOLEAN"},
        },
    ),
    "/v1/model": _route("What is served now", "GetModelResponse", _AWAY),
    "/v1/versions": _route("The versions, newest first", "ListVersionsResponse", {400: "The limit is not in 1 to 1,000."} | _AWAY),
}
