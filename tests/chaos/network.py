"""What goes wrong between a client and a server: a proxy that cuts, delays, swallows or changes what passes. Knows no protocol."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from enum import Enum
from typing import Self

_LOOK = 0.05
_CHUNK = 65_536


class Fault(Enum):
    """What the network does."""

    NONE = "none"
    REFUSED = "refused"  # connections are closed, and new ones at once
    SLOW = "slow"  # every chunk waits
    HALF_OPEN = "half-open"  # connections stand, nothing passes, nobody is told
    CORRUPTED = "corrupted"  # a byte of what is marked changes, both ways


class FaultyNetwork:
    """A port that leads to `target`, with one fault at a time."""

    def __init__(self, port: int, target: int, *, marked: bytes, delay: float = 0.2) -> None:
        """`marked` are the bytes of which the first is changed where they pass corrupted; `delay` is in seconds, for each chunk."""
        self._target, self._marked, self._delay = target, marked, delay
        self.port = port
        self.fault = Fault.NONE
        self.changed = 0  # chunks that were corrupted
        self._listener = socket.create_server(("127.0.0.1", port))
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:  # the one that accepts is the first
            thread.join()
        self._listener.close()

    def cut(self) -> None:
        """Close what is open; whoever connects again gets through."""
        self.fault = Fault.REFUSED
        self._stopping.wait(4 * _LOOK)
        self.fault = Fault.NONE

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if select.select([self._listener], [], [], _LOOK)[0]:
                self._spawn(self._serve, self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            while not self._stopping.is_set() and self.fault is not Fault.REFUSED:
                if self.fault is Fault.HALF_OPEN:
                    self._stopping.wait(_LOOK)
                    continue
                for ready in select.select([client, server], [], [], _LOOK)[0]:
                    content = ready.recv(_CHUNK)
                    if not content:
                        return
                    (server if ready is client else client).sendall(self._passed(content))

    def _passed(self, content: bytes) -> bytes:
        if self.fault is Fault.SLOW:
            self._stopping.wait(self._delay)
        place = content.find(self._marked) if self.fault is Fault.CORRUPTED else -1
        if place < 0:
            return content
        self.changed += 1
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
