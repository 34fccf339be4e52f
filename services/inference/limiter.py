"""Refuses callers who ask too much, by key, user and address, before anything is computed. Knows gRPC and the buckets; knows no model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from liveloop.api_keys import key_in
from liveloop.errors import Overloaded
from liveloop.limits import Buckets, Proxies, host_of
from liveloop.rpc import details_of
from liveloop.settings import Settings
from liveloop.telemetry import announce, counter

_OURS = "/liveloop.v1."


class Limiter(grpc.aio.ServerInterceptor):
    """Counts the items of every call: inputs, judgements, labelled rows; one where there are none."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises Misconfigured when `trusted_proxies` are not networks."""
        self._proxies = Proxies(settings.trusted_proxies)
        rates = {"key": settings.limit_per_key, "user": settings.limit_per_user, "address": settings.limit_per_address}
        self._buckets = {kind: Buckets(rate, clock=clock) for kind, rate in rates.items()}
        announce("calls_limited_total")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Put the limits before the method; health and reflection have none."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None or not handler_call_details.method.startswith(_OURS):
            return handler
        answer: Any = handler.unary_unary
        key = _named(key_in(handler_call_details.invocation_metadata or ()) or "")

        async def limited(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                self._take(request, key, context.peer())
            except Overloaded as error:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.reason, details_of(error))
            return await answer(request, context)

        return grpc.unary_unary_rpc_method_handler(limited, handler.request_deserializer, handler.response_serializer)

    def _take(self, request: Any, key: str, peer: str) -> None:
        """Raises Overloaded, with the seconds to wait, when a bucket has not enough."""
        user = str(getattr(request, "user", ""))
        names = {"address": self._proxies.client(host_of(peer)), "key": key, "user": user and f"{key}/{_named(user)}"}
        items = next((len(getattr(request, name)) for name in ("inputs", "feedback", "examples") if hasattr(request, name)), 1)
        for kind, name in names.items():
            wait = self._buckets[kind].take(name, items) if name else 0.0
            if wait:
                counter("calls_limited_total").labels(kind).inc()
                raise Overloaded(f"this {kind} asks more than it may", retry_after=wait)


def _named(secret: str) -> str:
    """A bucket's name for what must not lie in memory for long, nor be long; of the whole key, so that nobody else fills it."""
    return hashlib.blake2b(secret.encode(), digest_size=12).hexdigest() if secret else ""
