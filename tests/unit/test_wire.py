"""HTTP on the wire: a request whose head does not end is refused in bounded memory; everything that ends is parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from services.gateway.wire import HEAD_LIMIT, BoundedHttp

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
PIECE = b"a" * 4096


class Transport(asyncio.Transport):
    """What a protocol writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _answer(_scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"size={size}".encode()})


def talk(pieces: Iterator[bytes]) -> tuple[bytes, int]:
    """What is answered to these pieces, and how many bytes were taken before the connection was closed."""

    async def run() -> tuple[bytes, int]:
        config = uvicorn.Config(_answer, lifespan="off", log_config=None)
        config.load()
        transport, taken = Transport(), 0
        protocol = BoundedHttp(config=config, server_state=ServerState(), app_state={})
        protocol.connection_made(transport)
        for piece in pieces:
            if transport.closed:
                break
            protocol.data_received(piece)
            taken += len(piece)
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        return transport.written, taken

    return asyncio.run(run())


def _then(first: bytes, piece: bytes, count: int = 1000) -> Iterator[bytes]:
    yield first
    for _ in range(count):
        yield piece


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"GET /", PIECE),
        (POST, b"X: " + PIECE + b"\r\n"),
        (POST + b"X: ", PIECE),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: " + PIECE + b"\r\n"),
    ],
    ids=["path", "many headers", "a long header", "trailers"],
)
def test_what_does_not_end_is_refused(first: bytes, piece: bytes):
    answer, taken = talk(_then(first, piece))
    assert b"HTTP/1.1 400" in answer
    assert taken <= HEAD_LIMIT + len(first) + 2 * len(piece)


@pytest.mark.parametrize("piece", [PIECE, PIECE * 64])
def test_a_body_is_bounded_by_others_and_may_come_in_pieces_of_any_size(piece: bytes):
    answer, _ = talk(_then(POST + b"Content-Length: %d\r\n\r\n" % (50 * len(piece)), piece, 50))
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"size=%d\r\n0\r\n\r\n" % (50 * len(piece)))


def test_many_requests_on_one_connection_add_up_to_nothing():
    request = POST + b"X: " + PIECE + b"\r\nContent-Length: 0\r\n\r\n"
    answer, _ = talk(request for _ in range(100))
    assert answer.count(b"HTTP/1.1 200") == 100
