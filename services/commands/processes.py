"""The services as child processes of this one: started, probed, stopped. Knows no service's insides and prints nothing.

A child leads a process group of its own, so that Ctrl-C in the terminal reaches the parent alone and the parent stops the
children in order. The kernel kills a child whose parent is gone, however it went.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from liveloop.errors import Misconfigured
from liveloop.private import keep_private
from liveloop.settings import Settings, host_port

MISCONFIGURED = 2  # a service's exit code for trouble that starting it again does not cure
_STOP_ORDER = ("gateway", "inference", "learner")  # from the edge inwards: who asks goes before who answers
_LAST_GRACE = 8.0  # seconds that each has at the least: the learner, stopped last, saves its tensors
_GRACE = 30.0  # seconds to stop in: inference may flush its outbox for 20
# Set before the exec, since the setting outlives it: PR_SET_PDEATHSIG (1) with SIGKILL (9), then a look whether the parent went before.
_TIED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9);"
    " os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a web proxy in the environment is not for our own probes
_LISTENERS = ("inference_listen", "learner_listen", "gateway_listen", "gateway_ops_listen", "inference_ops_listen", "learner_ops_listen")


class Loop:
    """The services of one data folder. Start them from a thread that lives as long as they shall: the kernel ends them with it."""

    def __init__(
        self,
        settings: Settings,
        *,
        services: Sequence[str] = ("learner", "inference", "gateway"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self.services = tuple(services)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**os.environ, **_as_environment(settings), "HF_HUB_OFFLINE": "1", **(environment or {})}
        self._log_starts: dict[str, int] = {}

    def __enter__(self) -> Loop:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self, timeout: float = 120) -> None:
        """Start all and wait until each is ready.

        Raises:
            Misconfigured: one ended, or was not ready in `timeout` seconds; none is left running.
        """
        keep_private(self.settings.data)
        try:
            for service in self.services:
                self.launch(service)
            self._wait_ready(self.services, timeout)
        except BaseException:
            self.stop(grace=2.0)
            raise

    def launch(self, service: str) -> None:
        """Start one and do not wait for it. Raises Misconfigured when a port of its own is taken."""
        for address in (getattr(self.settings, f"{service}_listen"), getattr(self.settings, f"{service}_ops_listen")):
            if _answers(address):
                raise Misconfigured(f"{address} is already in use; is liveloop running? stop what listens there or choose another port")
        self.log(service).parent.mkdir(parents=True, exist_ok=True)
        with self.log(service).open("ab") as log:
            self._log_starts[service] = log.tell()
            self.processes[service] = subprocess.Popen(  # noqa: S603 nothing here comes from outside
                tied([sys.executable, "-P", "-m", f"services.{service}"]),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def restart(self, service: str, timeout: float = 120) -> None:
        """Stop one if it runs, start it and wait until it is ready. Raises Misconfigured as `start` does."""
        self._end(service, time.monotonic() + _GRACE)
        self.launch(service)
        self._wait_ready([service], timeout)

    def kill(self, service: str) -> None:
        """End one at once, as a crash would."""
        self.processes[service].kill()
        self.processes[service].wait()

    def stop(self, grace: float = _GRACE) -> None:
        """End all, from the edge inwards; who has not ended in `grace` seconds is killed."""
        deadline = time.monotonic() + grace
        try:
            for service in sorted(self.processes, key=_STOP_ORDER.index):
                self._end(service, max(deadline, time.monotonic() + min(grace, _LAST_GRACE)))
        finally:
            for process in self.processes.values():
                process.kill()
                process.wait()

    def log(self, service: str) -> Path:
        """The file that holds what a service writes to its standard output and error."""
        return self.settings.data / "logs" / f"{service}.log"

    def failure(self, service: str) -> str:
        """One sentence on why a service that ended did so: its own where it gave one."""
        code = self.processes[service].returncode
        sentence = [line for line in self._said(service) if line.startswith(f"liveloop {service}: ")]
        if code > 0 and sentence:
            return sentence[-1].removeprefix(f"liveloop {service}: ").strip()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"the {service} {how}; see {self.log(service)}"

    def _end(self, service: str, deadline: float) -> None:
        process = self.processes[service]
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_ready(self, services: Sequence[str], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        waiting = list(services)
        while waiting:
            for service in self.services:
                if service in self.processes and self.processes[service].poll() is not None and service in services:
                    raise Misconfigured(self.failure(service))
            waiting = [service for service in waiting if not self._ready(service)]
            if waiting and time.monotonic() > deadline:
                raise Misconfigured(f"the {waiting[0]} was not ready in {timeout:.0f} s; see {self.log(waiting[0])}")
            time.sleep(0.1 if waiting else 0)

    def _ready(self, service: str) -> bool:
        host, port = host_port(getattr(self.settings, f"{service}_ops_listen"))
        try:
            with _DIRECT.open(f"http://{host}:{port}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _said(self, service: str) -> list[str]:
        with self.log(service).open("rb") as log:
            log.seek(self._log_starts[service])
            return log.read().decode(errors="replace").splitlines()


def tied(command: Sequence[str]) -> list[str]:
    """What runs `command` (its program an absolute path) as a child that the kernel kills when the thread that started it is gone."""
    return [sys.executable, "-P", "-c", _TIED, str(os.getpid()), *command]


def free_settings(base: Settings) -> Settings:
    """`base` with free loopback ports for all six listeners, below the range from which the system gives out its own.

    The gateway finds the other two at these.
    """
    addresses: list[str] = []
    while len(addresses) < len(_LISTENERS):
        address = f"127.0.0.1:{random.randrange(20_000, 32_000)}"
        if address not in addresses and not _answers(address):
            addresses.append(address)
    return base.model_copy(update={**dict(zip(_LISTENERS, addresses, strict=True)), "inference_target": "", "learner_target": ""})


def _answers(address: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(host_port(address)) == 0


def _as_environment(settings: Settings) -> dict[str, str]:
    """What makes a child read the same settings, whatever its environment and its liveloop.toml say."""
    values = {name: value for name, value in settings.model_dump().items() if value is not None}
    return {f"LIVELOOP_{name.upper()}": str(value) for name, value in values.items()}
