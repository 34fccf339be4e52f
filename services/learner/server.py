"""LearnerService: answers from the journal. Knows gRPC; changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from liveloop.errors import InvalidInput, LiveloopError, Misconfigured
from liveloop.ports import require_free
from liveloop.rpc import details_of
from liveloop.v1 import learner_pb2, learner_pb2_grpc
from services.learner.view import JournalView

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_VERSIONS, _MOST_VERSIONS = 20, 1000
_THREADS = 4
"""Answers at a time: each is one indexed read."""


def _translates(method: Callable[[Any, _Request], _Response]) -> Callable[[Any, _Request, grpc.ServicerContext], _Response]:
    """Turn the error tree into a gRPC status."""

    @wraps(method)
    def answer(self: Any, request: _Request, context: grpc.ServicerContext) -> _Response:
        try:
            return method(self, request)
        except LiveloopError as error:
            context.set_trailing_metadata(details_of(error))
            context.abort(grpc.StatusCode[error.code], error.reason)
            raise AssertionError("abort always raises") from error

    return answer


class LearnerServicer(learner_pb2_grpc.LearnerServiceServicer):
    """Thin: each call is one question to the view."""

    def __init__(self, view: JournalView) -> None:
        self._view = view

    @_translates
    def GetFeedbackStatus(self, request: learner_pb2.GetFeedbackStatusRequest) -> learner_pb2.GetFeedbackStatusResponse:
        """What became of one feedback."""
        if not request.prediction_id:
            raise InvalidInput("prediction_id is empty", field="prediction_id")
        return self._view.feedback(request.prediction_id, request.feedback_id)

    @_translates
    def ListVersions(self, request: learner_pb2.ListVersionsRequest) -> learner_pb2.ListVersionsResponse:
        """The versions, newest first."""
        if request.limit > _MOST_VERSIONS:
            raise InvalidInput(f"limit is {request.limit}; at most {_MOST_VERSIONS} versions in one call", field="limit")
        return learner_pb2.ListVersionsResponse(versions=self._view.versions(request.limit or _VERSIONS))


def serve(address: str, view: JournalView) -> Any:
    """Listen on `address` (host:port) and answer. Raises Misconfigured when the port is in use."""
    require_free(address)
    server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"), options=[("grpc.so_reuseport", 0)])
    learner_pb2_grpc.add_LearnerServiceServicer_to_server(LearnerServicer(view), server)
    name = learner_pb2.DESCRIPTOR.services_by_name["LearnerService"].full_name
    status = health.HealthServicer()
    for service in ("", name):
        status.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection((name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise Misconfigured(f"cannot listen on {address}; is liveloop already running? choose another port") from error
    server.start()
    return server
