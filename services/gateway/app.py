"""The HTTP routes of the contract. Knows gRPC stubs and JSON; computes nothing and keeps nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import grpc.aio
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from liveloop import __version__, access, telemetry, tracing
from liveloop.api_keys import api_key
from liveloop.errors import InvalidInput, KeyUnknown, LiveloopError
from liveloop.rpc import error_from, error_of
from liveloop.settings import Settings
from liveloop.v1 import inference_pb2, learner_pb2
from services.gateway import openapi
from services.gateway.door import Door, count_items
from services.gateway.edge import LOCAL_ORIGINS, Edge, read_json, shown_key
from services.gateway.langfuse import feedback_of
from services.gateway.problems import HttpError, problem
from services.gateway.transcoding import from_json, to_json

if TYPE_CHECKING:  # there are no such classes: these are the types of the stubs of a grpc.aio channel
    from liveloop.v1.inference_pb2_grpc import InferenceServiceAsyncStub
    from liveloop.v1.learner_pb2_grpc import LearnerServiceAsyncStub

_STATIC = Path(__file__).parent / "static"
_WEB = Path(__file__).parents[2] / "web"  # the browser package: served as it is published
_TIMEOUT = 10.0  # seconds for one gRPC call
# Their sentences are for operators: they name addresses and internals.
_NOT_FOR_CALLERS = {
    "UNAVAILABLE": "cannot be reached; try again",
    "UNKNOWN": "failed",
    "INTERNAL": "failed",
    "DATA_LOSS": "failed",
}

ResponseMessage = TypeVar("ResponseMessage")


class Gateway:
    """The handlers, one per route."""

    def __init__(self, inference: InferenceServiceAsyncStub, learner: LearnerServiceAsyncStub, key: str) -> None:
        """`key` is the API key to show for callers who show none."""
        self._key = key
        self._inference = inference
        self._learner = learner
        self._log = telemetry.logger(service="gateway")

    async def predict(self, request: Request) -> Response:
        """Answers every input, or refuses the whole call. `{"text": ...}` is short for one input."""
        body = await read_json(request)
        if isinstance(body, dict) and "text" in body and "inputs" not in body:
            body = {"inputs": [{"text": body["text"]}]} | {name: value for name, value in body.items() if name != "text"}
        message = from_json(inference_pb2.PredictRequest, body)
        count_items(request, len(message.inputs))
        return await self._answer("inference", self._inference.Predict, message)

    async def submit_feedback(self, request: Request) -> Response:
        """Takes one judgement or a list of them; the token is the authority. Where all are refused, the status is that of the first."""
        body = await read_json(request, "application/json", "text/plain")  # a page that closes can only send the latter
        if isinstance(body, list):
            body = {"feedback": body}
        elif isinstance(body, dict) and "feedback" not in body:
            body = {"feedback": [body]}
        message = from_json(inference_pb2.SubmitFeedbackRequest, body)
        count_items(request, len(message.feedback))
        response = await self._call("inference", self._inference.SubmitFeedback, message)
        rejected = [ack for ack in response.acks if ack.status == inference_pb2.ACK_STATUS_REJECTED]
        if rejected and len(rejected) == len(response.acks):
            first = rejected[0]
            return problem(error_of(first.code, first.reason, field=first.field, retry_after=1.0), **to_json(response))
        return JSONResponse(to_json(response))

    async def take_score(self, request: Request) -> Response:
        """Takes one score in the shape of Langfuse's API; the caller's own key in the header Authorization is the authority."""
        if not shown_key():  # the gateway's key speaks for pages, whose people have tokens
            raise error_of("UNAUTHENTICATED", "a score needs an API key in the header Authorization")
        message = inference_pb2.SubmitFeedbackRequest(feedback=[feedback_of(await read_json(request))])
        ack = (await self._call("inference", self._inference.SubmitFeedback, message)).acks[0]
        if ack.status == inference_pb2.ACK_STATUS_REJECTED:
            return problem(error_of(ack.code, ack.reason, field=ack.field.removeprefix("feedback[0]."), retry_after=1.0))
        return JSONResponse({"id": ack.feedback_id} | to_json(ack))

    async def feedback_status(self, prediction_id: str, feedback_id: str) -> Response:
        """What became of a feedback. 404: not read yet, or never sent; who holds an ack may take it as pending."""
        message = learner_pb2.GetFeedbackStatusRequest(prediction_id=prediction_id, feedback_id=feedback_id)
        return await self._answer("learner", self._learner.GetFeedbackStatus, message)

    async def model(self) -> Response:
        """What is served now, and its limits."""
        return await self._answer("inference", self._inference.GetModel, inference_pb2.GetModelRequest())

    async def versions(self, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        """The versions, newest first."""
        message = learner_pb2.ListVersionsRequest(limit=limit)
        return await self._answer("learner", self._learner.ListVersions, message)

    async def _answer(self, service: str, rpc: grpc.aio.UnaryUnaryMultiCallable[Any, Any], message: object) -> Response:
        """Call a service and pass its answer on."""
        return JSONResponse(to_json(await self._call(service, rpc, message)))

    def _metadata(self, message: object) -> list[tuple[str, str]]:
        """What goes with every call: who calls, and the trace. Raises KeyUnknown for a header that gRPC cannot carry."""
        if not (shown_key().isascii() and shown_key().isprintable()):
            raise KeyUnknown("the header Authorization holds characters that no API key has")
        own = self._key and not isinstance(message, inference_pb2.SubmitFeedbackRequest)  # whoever judges does so by his own authority
        authority = shown_key() or (f"Bearer {self._key}" if own else "")
        return [(name, value) for name, value in ((access.HEADER, authority), (tracing.HEADER, tracing.traceparent())) if value]

    async def _call(self, service: str, rpc: grpc.aio.UnaryUnaryMultiCallable[Any, ResponseMessage], message: object) -> ResponseMessage:
        """Call a service; its errors become the tree's."""
        try:
            return await rpc(message, timeout=_TIMEOUT, metadata=self._metadata(message))
        except grpc.RpcError as call:
            error = error_from(call)
            if error.code in _NOT_FOR_CALLERS:
                self._log.warning("call failed", target=service, code=error.code, reason=error.reason)
                error = error_of(error.code, f"the {service} service {_NOT_FOR_CALLERS[error.code]}")
            raise error from call


def create_app(inference: InferenceServiceAsyncStub, learner: LearnerServiceAsyncStub, settings: Settings) -> ASGIApp:
    """The application, calling these two stubs (of grpc.aio channels). Raises Misconfigured when its API key cannot be read."""
    app = FastAPI(title="liveloop", version=__version__, description=openapi.DESCRIPTION, docs_url=None, redoc_url=None)
    gateway = Gateway(inference, learner, api_key(settings.gateway_key_file))
    for path, method, handler in (
        ("/v1/predict", "POST", gateway.predict),
        ("/v1/feedback", "POST", gateway.submit_feedback),
        ("/v1/feedback/{prediction_id}/{feedback_id}", "GET", gateway.feedback_status),
        ("/v1/intake/langfuse/scores", "POST", gateway.take_score),
        ("/v1/model", "GET", gateway.model),
        ("/v1/versions", "GET", gateway.versions),
    ):
        app.add_api_route(path, handler, methods=[method], **openapi.ROUTES[path])
    pages = {"/": _STATIC / "index.html", "/docs": _STATIC / "docs.html"} | {f"/static/{file.name}": file for file in _WEB.glob("*.js")}
    for path, file in pages.items():
        app.add_api_route(path, _page(file), methods=["GET", "HEAD"], include_in_schema=False)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.add_exception_handler(LiveloopError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_bad_parameter)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(Door, settings=settings)
    origins = [one.strip() for one in settings.allowed_origins.split(",") if one.strip()]
    app.add_middleware(  # around the door, so that a page can read why it was turned away
        CORSMiddleware,
        allow_origins=origins,
        allow_origin_regex=None if origins else LOCAL_ORIGINS,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "traceparent"],
        expose_headers=["Retry-After"],
    )
    openapi.complete(app)
    return Edge(app)  # outermost, so that no answer goes without its headers


def _page(file: Path) -> Callable[[], Awaitable[FileResponse]]:
    async def page() -> FileResponse:
        return FileResponse(file)

    return page


async def _on_error(_: Request, error: Any) -> Response:
    return problem(error)


async def _on_http_error(request: Request, error: Any) -> Response:
    if error.status_code == 404:
        return problem(error_of("NOT_FOUND", f"there is no {request.url.path}; /docs lists what there is"))
    response = problem(HttpError(error.status_code, f"{request.method} {request.url.path}: {error.detail}", code="UNIMPLEMENTED"))
    response.headers.update(error.headers or {})
    return response


async def _on_bad_parameter(_: Request, error: Any) -> Response:
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return problem(InvalidInput(f"{name}: {first['msg']}", field=name))


async def _on_bug(_: Request, __: Any) -> Response:
    return problem(LiveloopError("the gateway failed; its log says more"))
