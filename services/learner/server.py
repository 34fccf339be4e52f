"""LearnerService: answers from the journal, and hands orders to the loop's thread. Knows gRPC; changes nothing itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from liveloop import tls
from liveloop.access import caller
from liveloop.admission import Access
from liveloop.askers import asker_hash
from liveloop.errors import InvalidInput, LiveloopError, Misconfigured
from liveloop.ports import require_free
from liveloop.rpc import details_of
from liveloop.times import timestamp
from liveloop.v1 import learner_pb2 as pb
from liveloop.v1.learner_pb2_grpc import LearnerServiceServicer, add_LearnerServiceServicer_to_server
from services.learner.journal import By
from services.learner.orders import MOST, PATIENCE, GiveUp, Order, Orders
from services.learner.quarantine import Name
from services.learner.view import JournalView

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Outcome = TypeVar("_Outcome")
_SERVICE = pb.DESCRIPTOR.services_by_name["LearnerService"].full_name
_VERSIONS, _QUARANTINED, _LISTED = 20, 100, 1000
"""Listed where the caller names no limit, and at the most."""
_TEXT = 256
"""Bytes of `who` and of `why` at the most."""
_THREADS = MOST + 4
"""Calls at a time: orders that wait for the loop's next turn, and beside them indexed reads."""


@dataclass(frozen=True, slots=True)
class Askers:
    """What the order to forget somebody needs to know beside the journal."""

    key: Callable[[], bytes]  # of their hashes; Misconfigured where this learner has none
    copies_stay: float  # seconds for which the event log and the outboxes keep what was erased here

    def hashed(self, user: str, session_id: str) -> bytes:
        """The one who is meant. Raises InvalidInput, Misconfigured."""
        if bool(user) == bool(session_id):
            raise InvalidInput("name a user or a session, one of the two", field="user")
        return asker_hash(self.key(), user=user, session_id=session_id)


class _Signed(Protocol):
    """An order as it comes: every one says who and why."""

    who: str
    why: str


def _translates(
    method: Callable[[Any, _Request, grpc.ServicerContext], _Response],
) -> Callable[[Any, _Request, grpc.ServicerContext], _Response]:
    """Turn the error tree into a gRPC status."""

    @wraps(method)
    def answer(self: Any, request: _Request, context: grpc.ServicerContext) -> _Response:
        try:
            with self.access.admitted(f"{_SERVICE}/{method.__name__}", context.invocation_metadata()):
                return method(self, request, context)
        except LiveloopError as error:
            context.set_trailing_metadata(details_of(error))
            context.abort(grpc.StatusCode[error.code], error.reason)
            raise AssertionError("abort always raises") from error

    return answer


class LearnerServicer(LearnerServiceServicer):
    """Thin: each call is one question to the view, or one order."""

    def __init__(self, view: JournalView, orders: Orders, askers: Askers, access: Access | None = None) -> None:
        """`access` lets callers in; everybody where None."""
        self.access = access or Access()
        self._view = view
        self._orders = orders
        self._askers = askers

    @_translates
    def GetFeedbackStatus(self, request: pb.GetFeedbackStatusRequest, _: grpc.ServicerContext) -> pb.GetFeedbackStatusResponse:
        """What became of one feedback."""
        if not request.prediction_id:
            raise InvalidInput("prediction_id is empty", field="prediction_id")
        return self._view.feedback(request.prediction_id, request.feedback_id)

    @_translates
    def GetFeedbackSummary(self, _request: pb.GetFeedbackSummaryRequest, _: grpc.ServicerContext) -> pb.GetFeedbackSummaryResponse:
        """How much feedback is in each state, and which reasons people gave."""
        return self._view.summary()

    @_translates
    def ListVersions(self, request: pb.ListVersionsRequest, _: grpc.ServicerContext) -> pb.ListVersionsResponse:
        """The versions, newest first."""
        return pb.ListVersionsResponse(versions=self._view.versions(_limit(request.limit, _VERSIONS)))

    @_translates
    def GetVersion(self, request: pb.GetVersionRequest, _: grpc.ServicerContext) -> pb.GetVersionResponse:
        """Where one version came from."""
        return self._view.version(_version(request.version))

    @_translates
    def ListQuarantine(self, request: pb.ListQuarantineRequest, _: grpc.ServicerContext) -> pb.ListQuarantineResponse:
        """What was set aside, newest first."""
        return self._view.quarantine(_limit(request.limit, _QUARANTINED))

    @_translates
    def Promote(self, request: pb.PromoteRequest, context: grpc.ServicerContext) -> pb.PromoteResponse:
        """Bless a version by hand."""
        by, version = _by(request), _version(request.version)
        self._order(lambda operator: operator.promote(version, by), context)
        return pb.PromoteResponse()

    @_translates
    def Rollback(self, request: pb.RollbackRequest, context: grpc.ServicerContext) -> pb.RollbackResponse:
        """Serve an older version's weights again."""
        by, version = _by(request), _version(request.version)
        row = self._order(lambda operator: operator.rollback(version, by), context)
        assert row.version is not None
        return pb.RollbackResponse(version=row.version, quarantined=row.body["quarantined"])

    @_translates
    def Pin(self, request: pb.PinRequest, context: grpc.ServicerContext) -> pb.PinResponse:
        """Keep a version."""
        by, version = _by(request), _version(request.version)
        self._order(lambda operator: operator.pin(version, by), context)
        return pb.PinResponse()

    @_translates
    def Unpin(self, request: pb.UnpinRequest, context: grpc.ServicerContext) -> pb.UnpinResponse:
        """Let a pinned version go."""
        by, version = _by(request), _version(request.version)
        self._order(lambda operator: operator.unpin(version, by), context)
        return pb.UnpinResponse()

    @_translates
    def Pause(self, request: pb.PauseRequest, context: grpc.ServicerContext) -> pb.PauseResponse:
        """Take no more steps."""
        by = _by(request)
        self._order(lambda operator: operator.pause(by), context)
        return pb.PauseResponse()

    @_translates
    def Resume(self, request: pb.ResumeRequest, context: grpc.ServicerContext) -> pb.ResumeResponse:
        """Take steps again."""
        by = _by(request)
        self._order(lambda operator: operator.resume(by), context)
        return pb.ResumeResponse()

    @_translates
    def ReleaseQuarantine(self, request: pb.ReleaseQuarantineRequest, context: grpc.ServicerContext) -> pb.ReleaseQuarantineResponse:
        """Let quarantined feedback train."""
        by, names = _by(request), _names(request.feedback)
        return pb.ReleaseQuarantineResponse(released=self._order(lambda operator: operator.release(names, by), context))

    @_translates
    def DropQuarantine(self, request: pb.DropQuarantineRequest, context: grpc.ServicerContext) -> pb.DropQuarantineResponse:
        """Reject quarantined feedback for good."""
        by, names = _by(request), _names(request.feedback)
        return pb.DropQuarantineResponse(dropped=self._order(lambda operator: operator.drop(names, by), context))

    @_translates
    def Forget(self, request: pb.ForgetRequest, context: grpc.ServicerContext) -> pb.ForgetResponse:
        """Erase all of one user or session."""
        by, who = _by(request), self._askers.hashed(request.user, request.session_id)
        done = self._order(lambda operator: operator.forget(who, by, rebuilds=request.rebuild), context)
        erased = done.erased
        return pb.ForgetResponse(
            predictions=erased.predictions,
            feedback=erased.feedback,
            versions=erased.versions[:_LISTED],
            copies_lapse_at=timestamp(time.time() + self._askers.copies_stay),
            rebuilt=done.rebuilt,
        )

    @_translates
    def ListDeadLetters(self, request: pb.ListDeadLettersRequest, _: grpc.ServicerContext) -> pb.ListDeadLettersResponse:
        """What could not be read, newest first."""
        return self._view.dead_letters(_limit(request.limit, _QUARANTINED))

    @_translates
    def GetDeadLetter(self, request: pb.GetDeadLetterRequest, _: grpc.ServicerContext) -> pb.GetDeadLetterResponse:
        """One of them, byte for byte."""
        return self._view.dead_letter(request.id)

    @_translates
    def RetryDeadLetters(self, request: pb.RetryDeadLettersRequest, context: grpc.ServicerContext) -> pb.RetryDeadLettersResponse:
        """Read them again."""
        by, ids = _by(request), list(request.ids)
        read, left = self._order(lambda operator: operator.retry(ids, by), context)
        return pb.RetryDeadLettersResponse(read=read, left=left)

    @_translates
    def AcceptGap(self, request: pb.AcceptGapRequest, context: grpc.ServicerContext) -> pb.AcceptGapResponse:
        """Go on behind what is missing in the log."""
        by = _by(request)
        gaps = self._order(lambda operator: operator.accept_gap(by), context)
        return pb.AcceptGapResponse(gaps=[pb.Gap(partition=partition, to=end, **{"from": start}) for partition, start, end in gaps])

    def _order(self, order: Order[_Outcome], context: grpc.ServicerContext) -> _Outcome:
        """Wait for the loop's thread, no longer than the caller does."""

        def placed(give_up: GiveUp) -> None:
            if not context.add_callback(give_up):  # the call is over already
                give_up()

        left = context.time_remaining()
        return self._orders.place(order, patience=PATIENCE if left is None else min(PATIENCE, left), placed=placed)


def _limit(asked: int, default: int) -> int:
    if asked > _LISTED:
        raise InvalidInput(f"limit is {asked}; at most {_LISTED} in one call", field="limit")
    return asked or default


def _version(number: int) -> int:
    if not number:
        raise InvalidInput("version is 0: name a published one", field="version")
    return number


def _by(request: _Signed) -> By:
    for field, text in (("who", request.who), ("why", request.why)):
        if len(text.encode()) > _TEXT:
            raise InvalidInput(f"{field} is longer than {_TEXT} bytes", field=field)
    if not request.who.strip():
        raise InvalidInput("who is empty: an order is journalled with who gave it", field="who")
    client = caller().client
    return By(f"{request.who} ({client})" if client else request.who, request.why)


def _names(feedback: Iterable[pb.FeedbackName]) -> list[Name]:
    found = [(one.prediction_id, one.feedback_id) for one in feedback]
    for index, name in enumerate(found):
        for field, part in zip(("prediction_id", "feedback_id"), name, strict=True):
            if not part:
                raise InvalidInput(f"{field} is empty", field=f"feedback[{index}].{field}")
    return found


def serve(
    address: str,
    view: JournalView,
    orders: Orders,
    askers: Askers,
    access: Access | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> Any:
    """Listen on `address` (host:port), with TLS where there are `credentials`, and answer whom `access` lets in.

    Raises Misconfigured when the port is in use.
    """
    require_free(address)
    server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"), options=[("grpc.so_reuseport", 0)])
    add_LearnerServiceServicer_to_server(LearnerServicer(view, orders, askers, access), server)
    status = health.HealthServicer()
    for service in ("", _SERVICE):
        status.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection((_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        tls.listen(server, address, credentials)
    except RuntimeError as error:
        raise Misconfigured(f"cannot listen on {address}; is liveloop already running? choose another port") from error
    server.start()
    return server
