"""Who may come in over HTTP: the Host check and the limit per address. Knows headers and addresses; knows no route."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from liveloop import telemetry
from liveloop.errors import LiveloopError, Overloaded
from liveloop.limits import Buckets, Proxies
from liveloop.settings import Settings, host_port
from services.gateway.problems import HttpError, problem

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TAKE = "liveloop.take"
"""Where a request carries what counts for its address."""


def count_items(request: Request, items: int) -> None:
    """Count what a call asks beyond the first item, which the door counted before it knew. Raises Overloaded."""
    if items > 1:
        request.scope[_TAKE](items - 1)


class Door:
    """Middleware: turns away requests that name another host, and addresses that ask too much."""

    def __init__(self, app: ASGIApp, *, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises Misconfigured when `trusted_proxies` are not networks."""
        self._app = app
        named = (one.strip().lower() for one in settings.allowed_hosts.split(","))
        self._hosts = {*_LOOPBACK, host_port(settings.gateway_listen)[0].lower(), *(one for one in named if one)}
        self._proxies = Proxies(settings.trusted_proxies)
        self._buckets = Buckets(settings.limit_per_address, clock=clock)
        telemetry.announce("calls_limited_total")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an ASGI call on, or refuse it."""
        if scope["type"] == "http":
            try:
                scope[_TAKE] = partial(self._take, self._address(Headers(scope=scope), (scope.get("client") or ("",))[0]))
                scope[_TAKE](1)
            except LiveloopError as error:
                await problem(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _address(self, headers: Headers, peer: str) -> str:
        """The name of the caller's bucket, empty for our own machinery. Raises HttpError for another host.

        A page that had its name moved to this address (DNS rebinding) is of the same origin to the browser: only the name tells.
        """
        host = _without_port(headers.get("host", ""))
        if host not in self._hosts:
            raise HttpError(421, "this gateway does not answer to that host name; the setting allowed_hosts names those it does")
        forwarded = [one for value in headers.getlist("x-forwarded-for") for one in value.split(",")]
        return self._proxies.client(peer, forwarded)

    def _take(self, name: str, items: int) -> None:
        wait = self._buckets.take(name, items) if name else 0.0
        if wait:
            telemetry.counter("calls_limited_total").labels("address").inc()
            raise Overloaded("this address asks more than it may", retry_after=wait)


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() and not name.endswith(":") else host).strip("[]").lower()
