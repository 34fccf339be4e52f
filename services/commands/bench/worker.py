"""Child processes that are told what to do, and tell what they found, one line of JSON at a time. Knows no measurement.

A child ends when its standard input does, and the kernel kills it when its parent is gone, however that went. It leads a process group
of its own, so that Ctrl-C in the terminal reaches the parent alone.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Self

from liveloop.errors import LiveloopError
from services.commands.processes import tied

_GRACE = 10.0
"""Seconds that a child has to end by itself."""


class Worker:
    """One child; `module` reads what it is told with `messages` and answers with `tell`."""

    def __init__(self, module: str, **first: Any) -> None:
        """Start it; `first` is the first message."""
        self._module = module
        self._said = TemporaryFile()  # noqa: SIM115  closed with the worker
        self._process = subprocess.Popen(  # noqa: S603  our own arguments
            tied([sys.executable, "-P", "-m", module]),
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            process_group=0,
        )
        self._found: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, name="worker", daemon=True).start()
        self.tell(**first)

    def tell(self, **message: Any) -> None:
        """Send one message; one to a child that is gone is lost, and `hear` says so."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass

    def hear(self, timeout: float = 60.0) -> dict[str, Any]:
        """The next answer. Raises LiveloopError when the child ended, or gave none in `timeout` seconds."""
        try:
            found = self._found.get(timeout=timeout)
        except queue.Empty:
            raise LiveloopError(f"{self._module} did not answer in {timeout:.0f} s") from None
        if found is None:
            raise LiveloopError(f"{self._module} ended: {self._last_line()}")
        return found

    def close(self) -> None:
        """End it and wait for that."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._found.put(json.loads(line))
        self._found.put(None)

    def _last_line(self) -> str:
        self._process.wait(_GRACE)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"


def messages() -> Iterator[dict[str, Any]]:
    """In the child: what the parent tells, until it has no more to tell or is gone."""
    for line in sys.stdin:
        yield json.loads(line)


def tell(**message: Any) -> None:
    """In the child: answer the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
