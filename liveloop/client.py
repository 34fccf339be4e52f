"""What an application calls: `Client` blocks, `AsyncClient` is awaited. Knows the two kinds of gRPC channel; no method's insides.

from liveloop import Client

client = Client()
prediction = client.predict("not bad at all")
client.feedback(prediction, "up")
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, cast, overload

import grpc

from liveloop.access import HEADER
from liveloop.calls import Asked, Methods, Request, Response
from liveloop.rpc import CHANNEL_OPTIONS, channel_credentials
from liveloop.v1 import inference_pb2
from liveloop.v1.inference_pb2_grpc import InferenceServiceStub
from liveloop.v1.learner_pb2_grpc import LearnerServiceStub

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(method: Callable[Concatenate[Methods, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Client, P], T]:
    """The method for those who block: the same name, arguments and words."""

    @functools.wraps(method)
    def call(self: Client, *args: P.args, **kwargs: P.kwargs) -> T:
        return _finish(method(self._methods, *args, **kwargs))

    return cast("Callable[Concatenate[Client, P], T]", call)


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run what never suspends."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    raise AssertionError("a transport that blocks suspended")


class Client:
    """Calls a running loop; its methods may be called from several threads.

    Every method raises LiveloopError: InvalidInput names the field, Unavailable and Overloaded come after a few tries,
    DeadlinePassed after `timeout`.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        learner: str = "127.0.0.1:50052",
        timeout: float = 10.0,
        key: str = "",
        ca: Path | None = None,
        cert: Path | None = None,
    ) -> None:
        """Connects at the first call. `target` and `learner` are host:port; `timeout` is for a whole call with its tries, in seconds.

        `key` is an API key. TLS with `ca`, the certificate authority in PEM; `cert` is the client's certificate and key, in one PEM file.
        """
        trusted = channel_credentials(ca, cert)
        self._channels = [
            grpc.secure_channel(address, trusted, CHANNEL_OPTIONS) if trusted else grpc.insecure_channel(address, CHANNEL_OPTIONS)
            for address in (target, learner)
        ]
        stubs = InferenceServiceStub(self._channels[0]), LearnerServiceStub(self._channels[1])
        self._methods = Methods(*stubs, _Blocking(key), timeout=timeout)

    @overload
    def predict(  # type: ignore[overload-overlap] # as in Methods
        self, text: str, **asked: Unpack[Asked]
    ) -> inference_pb2.Prediction: ...

    @overload
    def predict(self, text: Sequence[str], **asked: Unpack[Asked]) -> list[inference_pb2.Prediction]: ...

    @functools.wraps(Methods.predict)
    def predict(self, text: Any, **asked: Unpack[Asked]) -> Any:
        """See Methods.predict: the one method with overloads, which a ParamSpec cannot stand for."""
        return _finish(self._methods.predict(text, **asked))

    feedback = _blocking(Methods.feedback)
    retract = _blocking(Methods.retract)
    learn = _blocking(Methods.learn)
    status = _blocking(Methods.status)
    feedback_summary = _blocking(Methods.feedback_summary)
    versions = _blocking(Methods.versions)
    version = _blocking(Methods.version)
    model = _blocking(Methods.model)
    promote = _blocking(Methods.promote)
    rollback = _blocking(Methods.rollback)
    pin = _blocking(Methods.pin)
    unpin = _blocking(Methods.unpin)
    pause = _blocking(Methods.pause)
    resume = _blocking(Methods.resume)
    quarantine = _blocking(Methods.quarantine)
    release = _blocking(Methods.release)
    drop = _blocking(Methods.drop)
    forget = _blocking(Methods.forget)
    dead_letters = _blocking(Methods.dead_letters)
    dead_letter = _blocking(Methods.dead_letter)
    retry_dead_letters = _blocking(Methods.retry_dead_letters)
    accept_gap = _blocking(Methods.accept_gap)

    def close(self) -> None:
        """Close the connections; a call afterwards is a ValueError."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient(Methods):
    """As Client, awaited: in one event loop, the one in which it is made."""

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        learner: str = "127.0.0.1:50052",
        timeout: float = 10.0,
        key: str = "",
        ca: Path | None = None,
        cert: Path | None = None,
    ) -> None:
        """As for Client."""
        trusted = channel_credentials(ca, cert)
        self._channels = [
            grpc.aio.secure_channel(address, trusted, CHANNEL_OPTIONS) if trusted else grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
            for address in (target, learner)
        ]
        # The stubs of both kinds of channel are one class; what they return is the transport's to know.
        stubs = InferenceServiceStub(cast("Any", self._channels[0])), LearnerServiceStub(cast("Any", self._channels[1]))
        super().__init__(*stubs, _Awaiting(key), timeout=timeout)

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


class _Blocking:
    """Calls that keep their thread waiting."""

    def __init__(self, key: str) -> None:
        self._metadata = _with(key)

    async def send(self, rpc: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request, timeout: float) -> Response:
        return rpc(request, timeout=timeout, metadata=self._metadata)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _Awaiting:
    """Calls that leave the thread to others."""

    def __init__(self, key: str) -> None:
        self._metadata = _with(key)

    async def send(self, rpc: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request, timeout: float) -> Response:
        return cast("Response", await cast("Any", rpc(request, timeout=timeout, metadata=self._metadata)))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _with(key: str) -> tuple[tuple[str, str], ...]:
    return ((HEADER, f"Bearer {key}"),) if key else ()
