"""How gRPC is used: what a channel to a service is made with, and how an error crosses. Knows no service.

An error is put into a status with details where it is raised, and back into the tree where it is caught. The details are google.rpc's
RetryInfo and BadRequest, in the trailing metadata `grpc-status-details-bin`. The messages that ship with protobuf do not include those
three, and each needs one field here: they are written and read by their field numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast
from urllib.parse import unquote

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from liveloop.errors import (
    DeadlinePassed,
    FeedbackConflict,
    InvalidInput,
    KeyUnknown,
    LiveloopError,
    Misconfigured,
    NotEntitled,
    NotFound,
    NotNow,
    Overloaded,
    Unavailable,
    WeightsRefused,
)

CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),  # gRPC's own second outlasts a client's tries
    ("grpc.max_reconnect_backoff_ms", 1000),  # a service that comes back is found within a second
    ("grpc.enable_http_proxy", 0),  # a proxy for the web is not on the way to the loop
    ("grpc.max_receive_message_length", 64 << 20),  # 256 answers with thousands of labels
]

DETAILS_KEY = "grpc-status-details-bin"
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_REFUSED = re.compile(r"ipv[46]:(\S+): .*Connection refused")
"""What gRPC says, among much else, where nothing listens."""
_BY_CODE: dict[str, type[LiveloopError]] = {
    kind.code: kind
    for kind in (
        InvalidInput,
        KeyUnknown,
        NotEntitled,
        NotNow,
        FeedbackConflict,
        DeadlinePassed,
        NotFound,
        Unavailable,
        WeightsRefused,
    )
}


def channel_credentials(ca: Path | None, cert: Path | None) -> grpc.ChannelCredentials | None:
    """What a channel with TLS is made with: whom to trust, and the certificate and key to show; None: no TLS.

    Raises Misconfigured when a file cannot be read.
    """
    if ca is None:
        if cert is not None:
            raise Misconfigured("a client certificate is shown with TLS alone: name the certificate authority too")
        return None
    try:
        own = cert.read_bytes() if cert else None
        return grpc.ssl_channel_credentials(root_certificates=ca.read_bytes(), private_key=own, certificate_chain=own)
    except OSError as error:
        raise Misconfigured(f"the certificate file {error.filename} cannot be read: {error.strerror}") from error


def error_of(code: str, reason: str, *, field: str = "", retry_after: float = 0.0) -> LiveloopError:
    """The error of the tree for the name of a gRPC status; one that has none keeps its `code` on a LiveloopError."""
    if code == Overloaded.code:
        return Overloaded(reason, retry_after=retry_after, field=field)
    error = _BY_CODE.get(code, LiveloopError)(reason, field=field)
    error.code = code
    return error


def error_from(call: grpc.RpcError) -> LiveloopError:
    """The error that a failed call stands for; works for grpc and for grpc.aio."""
    code, reason = call.code().name, call.details() or call.code().name.lower().replace("_", " ")
    if refused := _REFUSED.search(reason):
        reason = f"nothing listens at {unquote(refused[1])}"
    metadata = cast("Iterable[tuple[str, bytes]]", call.trailing_metadata() or ())
    field, retry_after = _read_details(metadata)
    return error_of(code, reason.removeprefix(f"{field}: "), field=field, retry_after=retry_after)


def details_of(error: LiveloopError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata to abort a call with: RetryInfo for Overloaded, BadRequest where a field is at fault, else nothing."""
    details = []
    if isinstance(error, Overloaded):
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(Any(type_url=_RETRY_INFO, value=_field(1, delay.SerializeToString())))
    if error.field:
        violation = _field(1, error.field.encode()) + _field(2, error.reason.encode())
        details.append(Any(type_url=_BAD_REQUEST, value=_field(1, violation)))
    if not details:
        return ()
    code: int = grpc.StatusCode[error.code].value[0]
    status = bytes([1 << 3, code]) + _field(2, error.reason.encode())
    return ((DETAILS_KEY, status + b"".join(_field(3, detail.SerializeToString()) for detail in details)),)


def _read_details(metadata: Iterable[tuple[str, bytes]]) -> tuple[str, float]:
    """The field at fault and the seconds to wait, where the metadata name them."""
    field, retry_after = "", 0.0
    packed = [value for key, value in metadata if key == DETAILS_KEY]
    try:
        for detail in (Any.FromString(data) for status in packed for data in _fields(status, 3)):
            if detail.type_url == _RETRY_INFO:
                for delay in _fields(detail.value, 1):
                    retry_after = Duration.FromString(delay).ToNanoseconds() / 1e9
            elif detail.type_url == _BAD_REQUEST:
                for name in (name for violation in _fields(detail.value, 1) for name in _fields(violation, 1)):
                    field = field or name.decode()
    except (DecodeError, UnicodeDecodeError):  # another server's idea of details: the status itself is still good
        return "", 0.0
    return field, retry_after


def _field(number: int, content: bytes) -> bytes:
    """One length-delimited field in protobuf's wire format."""
    length, size = bytearray(), len(content)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + content


def _fields(message: bytes, number: int) -> Iterator[bytes]:
    """The contents of the length-delimited fields of that number."""
    fields = UnknownFieldSet(Empty.FromString(message))
    for field in (fields[index] for index in range(len(fields))):
        if field.field_number == number and isinstance(field.data, bytes):
            yield field.data
