"""Errors as HTTP says them: RFC 9457 problem+json, with the gRPC `code` and the `field` at fault. Knows no route."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from liveloop.errors import LiveloopError, Overloaded

# As google.rpc.Code maps them; 499 is the web's custom for "the caller went away".
HTTP_STATUS = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


class HttpError(LiveloopError):
    """HttpError by HTTP itself, with a status that no gRPC code has: too large (413), not JSON (415), no such method (405)."""

    def __init__(self, status: int, reason: str, *, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(reason)
        self.status = status
        self.code = code


def problem(error: LiveloopError, **members: Any) -> JSONResponse:
    """The response for an error; `members` are added to the problem. A wait becomes Retry-After, in whole seconds."""
    status = error.status if isinstance(error, HttpError) else HTTP_STATUS.get(error.code, 500)
    title = next((known.phrase for known in HTTPStatus if known == status), "Client Closed Request")
    body = {"type": "about:blank", "title": title, "status": status, "detail": error.reason, "code": error.code, "field": error.field}
    headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))} if isinstance(error, Overloaded) else {}
    return JSONResponse(body | members, status, headers, media_type="application/problem+json")
