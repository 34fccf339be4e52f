"""HTTP on the wire, with a bound on what a request may be beside its body. Knows uvicorn's protocol; knows no route.

Uvicorn's parser keeps every header of a request, however many and however long: one connection could take all memory.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT = 64 << 10
"""Bytes of request line and headers, or of what follows a body, that may come before they end."""


class BoundedHttp(HttpToolsProtocol):
    """Uvicorn's protocol; a request whose head does not end is refused."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unended = 0  # bytes since a head, a part of a body or a request ended
        self._got_on = False

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse the request when that ends nothing for too long."""
        if self.transport.is_closing():
            return
        self._got_on = False
        super().data_received(data)
        self._unended = 0 if self._got_on else self._unended + len(data)
        if self._unended > HEAD_LIMIT and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_headers_complete(self) -> None:
        """The head ended."""
        self._got_on = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body, whose length others bound."""
        self._got_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request ended."""
        self._got_on = True
        super().on_message_complete()
