"""What stands between the net and the routes: the size limit, JSON, the security headers, the count. Knows no route."""

from __future__ import annotations

import json
from contextvars import ContextVar
from typing import Any, NoReturn

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveloop import access, telemetry, tracing
from liveloop.errors import InvalidInput
from services.gateway.problems import HttpError

BODY_LIMIT = 8 << 20  # bytes: 256 texts of the default 32 KiB
LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


_shown: ContextVar[str] = ContextVar("authorization", default="")


def shown_key() -> str:
    """The Authorization header of the request that is being answered; empty where there is none."""
    return _shown.get()


async def read_json(request: Request, *types: str) -> Any:
    """The body as JSON. Only `application/json` is taken where no other `types` are named: a web page of another origin cannot send that
    without asking first.

    Raises:
        HttpError: larger than BODY_LIMIT (413), or of another content type (415).
        InvalidInput: not UTF-8, or not JSON.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in (types or ("application/json",)):
        raise HttpError(415, "send the body with the header Content-Type: application/json")
    body = await _read_limited(request)
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: byte {error.start} cannot be read") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error


async def _read_limited(request: Request) -> bytes:
    announced = request.headers.get("content-length", "0")
    body = bytearray()
    if not announced.isdigit() or int(announced) <= BODY_LIMIT:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                break
        else:
            return bytes(body)
    raise HttpError(413, f"the body is larger than {BODY_LIMIT} bytes")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


class Edge:
    """Middleware: adds the security headers to every answer and counts it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an ASGI call on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store" if scope["path"].startswith("/v1/") else "no-cache")
                route = getattr(scope.get("route"), "path", "other")
                telemetry.counter("http_requests_total").labels(route=route, status=str(message["status"])).inc()
                span.tell(f"{scope['method']} {route}", http__route=route, http__response__status_code=message["status"])
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        _shown.set(headers.get(access.HEADER, ""))  # each request is a task of its own
        with tracing.span(
            scope["method"], parent=tracing.from_headers(headers.items()), kind="server", http__request__method=scope["method"]
        ) as span:
            await self._app(scope, receive, send_with_headers)
