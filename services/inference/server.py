"""The contract's methods on grpc.aio: check, compute or store, answer. Knows the batcher and the intake, not how weights arrive."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from uuid_utils import uuid7

from liveloop import tracing
from liveloop.admission import Access
from liveloop.errors import LiveloopError
from liveloop.policy import ARGMAX, Policy
from liveloop.rpc import details_of
from liveloop.tasks import Encoded, Task
from liveloop.telemetry import announce, counter, gauge, histogram, logger
from liveloop.v1 import inference_pb2
from liveloop.v1.inference_pb2_grpc import InferenceServiceServicer
from liveloop.weights.channels import Channel, channel_of
from services.inference.asking import Asking
from services.inference.batcher import Batcher
from services.inference.examples import ExampleDesk
from services.inference.feedback import FeedbackDesk
from services.inference.intake import Intake, acks_of
from services.inference.predictions import PredictionDesk
from services.inference.requests import MAX_ITEMS, check_count, texts_of
from services.inference.tokens import Tokens

_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_INLINE_CHARACTERS = 8192
"""Texts up to this long in all are tokenised in the event loop, in a few milliseconds at most; longer ones in a thread."""

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Request, Context], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Serving:
    """Which versions this process knows."""

    version: int  # the one it serves
    blessed: int  # the newest that passed the full evaluation
    canary_share: float = 1.0  # of askers, who get `version` while the rest get `blessed`


def answers_errors(method: Method[Request, Response]) -> Method[Request, Response]:
    """The one place where an error of the tree becomes a gRPC status."""

    @functools.wraps(method)
    async def call(servicer: Any, request: Request, context: Context) -> Response:
        name, metadata = f"{_SERVICE}/{method.__name__}", context.invocation_metadata() or ()
        try:
            with (
                tracing.span(name, parent=tracing.from_headers(metadata), kind="server", rpc__system="grpc"),
                servicer.access.admitted(name, metadata),
            ):
                return await method(servicer, request, context)
        except LiveloopError as error:
            reason = f"{error.field}: {error.reason}" if error.field else error.reason
            await context.abort(grpc.StatusCode[error.code], reason, details_of(error))
        except Exception:  # noqa: BLE001  the top of a call: what went wrong is the operator's to read, not the caller's
            logger().exception("a call failed", method=method.__name__)
            await context.abort(grpc.StatusCode.INTERNAL, "the service failed at this call; its log says why")

    return call


class InferenceServicer(InferenceServiceServicer):
    """Answers, and takes feedback."""

    def __init__(
        self,
        task: Task,
        batcher: Batcher,
        intake: Intake,
        tokens: Tokens,
        *,
        max_text_bytes: int,
        serving: Callable[[], Serving],
        access: Access | None = None,
        policy: Policy = ARGMAX,
        ask_share: float = 0.0,
        holdout_share: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`serving` tells what is served now; `access` lets callers in, everybody where None; `clock` is Unix seconds.

        The two shares are of the answers that feedback is asked for, and of the users whom version 1 answers.
        """
        self.access = access or Access()
        self._task = task
        self._batcher = batcher
        self._max_text_bytes = max_text_bytes
        self._serving = serving
        self._holdout_share = holdout_share
        self._predictions = PredictionDesk(intake, tokens, labels=task.labels, policy=policy, asking=Asking(ask_share), clock=clock)
        self._feedback = FeedbackDesk(intake, tokens, labels=task.labels, clock=clock)
        self._examples = ExampleDesk(intake, tokens, labels=task.labels, max_text_bytes=max_text_bytes, clock=clock)
        gauge("queue_depth").set_function(lambda: batcher.depth)
        announce("predict_requests_total", "predict_duration_seconds", "feedback_received_total", "examples_received_total")

    @answers_errors
    async def Predict(self, request: inference_pb2.PredictRequest, context: Context) -> inference_pb2.PredictResponse:
        """Answer every input, or none."""
        with _counted():
            texts = texts_of(request, max_text_bytes=self._max_text_bytes)
            self._batcher.check_room(len(texts))  # before the work of tokenising what will be refused
            inputs = await self._encode(texts)
            remaining = context.time_remaining()
            deadline = math.inf if remaining is None else time.monotonic() + remaining
            names = [str(uuid7()) for _ in inputs]
            computed = await self._batcher.submit(inputs, channels=self._channels(request, names), deadline=deadline)
            found = zip(names, request.inputs, inputs, computed, strict=True)
            return inference_pb2.PredictResponse(predictions=[self._predictions.answer(request, *each) for each in found])

    @answers_errors
    async def SubmitFeedback(self, request: inference_pb2.SubmitFeedbackRequest, _: Context) -> inference_pb2.SubmitFeedbackResponse:
        """Store each item that can be stored; durably, before it is acknowledged."""
        check_count("feedback", len(request.feedback))
        taken = [self._feedback.take(item, f"feedback[{index}]") for index, item in enumerate(request.feedback)]
        return inference_pb2.SubmitFeedbackResponse(acks=acks_of(await asyncio.gather(*taken)))

    @answers_errors
    async def SubmitExamples(self, request: inference_pb2.SubmitExamplesRequest, _: Context) -> inference_pb2.SubmitExamplesResponse:
        """Store each labelled row that can be stored; durably, before it is acknowledged."""
        check_count("examples", len(request.examples))
        taken = [self._examples.take(item, f"examples[{index}]") for index, item in enumerate(request.examples)]
        return inference_pb2.SubmitExamplesResponse(acks=acks_of(await asyncio.gather(*taken)))

    @answers_errors
    async def GetModel(self, _request: inference_pb2.GetModelRequest, _: Context) -> inference_pb2.GetModelResponse:
        """Say what is served now."""
        serving = self._serving()
        return inference_pb2.GetModelResponse(
            model=self._task.bundle.model,
            labels=self._task.labels,
            version=serving.version,
            blessed_version=serving.blessed,
            max_inputs=MAX_ITEMS,
            max_text_bytes=self._max_text_bytes,
        )

    async def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return self._task.encode(texts)
        return await asyncio.to_thread(self._task.encode, texts)

    def _channels(self, request: inference_pb2.PredictRequest, names: Sequence[str]) -> list[Channel]:
        """Who answers each of these predictions; nothing where there is one version for all."""
        share = self._serving().canary_share
        if share >= 1.0 and not self._holdout_share:
            return []
        return [channel_of(self._predictions.asker(request, name), share, self._holdout_share) for name in names]


@contextmanager
def _counted() -> Iterator[None]:
    """Count one Predict call by what it answers, and time it."""
    started, code = time.perf_counter(), "INTERNAL"
    try:
        yield
        code = "OK"
    except LiveloopError as error:
        code = error.code
        raise
    except asyncio.CancelledError:
        code = "CANCELLED"
        raise
    finally:
        counter("predict_requests_total").labels(code).inc()
        histogram("predict_duration_seconds").observe(time.perf_counter() - started)
