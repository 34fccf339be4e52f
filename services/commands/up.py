"""`liveloop up`: initialises an empty data folder, keeps the three services running and ends them cleanly. Knows no service's insides."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType

from rich.console import Console

from liveloop.errors import Misconfigured
from liveloop.private import write_privately
from liveloop.settings import Settings, host_port, load_settings
from services.commands.processes import MISCONFIGURED, Loop

_QUICK = 30.0  # seconds: a service that ends sooner after its start may do so each time
_QUICK_DEATHS = 5  # of one service in a row after which all stop
_FIRST_WAIT = 1.0  # seconds before a service is started again; twice as long each time
_LONGEST_WAIT = 60.0
_LOOK = 0.2  # seconds between two looks at the children


def up(settings: Settings, console: Console) -> None:
    """Run until Ctrl-C or SIGTERM.

    Raises:
        Misconfigured: it cannot start, or a service keeps ending; nothing is left running.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    write_privately()
    try:
        if not any((settings.data / "weights" / "heads").glob("*")):
            from services.commands.init import prepare_demo  # brings torch: only where there is something to initialise

            console.print(f"{settings.data} is empty: initialising it with the demo model.")
            prepare_demo(settings, console)
        with Loop(settings) as loop:
            console.print(f"Ready: {page(settings)}  (Ctrl-C ends it; the logs are in {settings.data / 'logs'})", soft_wrap=True)
            supervise(loop, console)
    except KeyboardInterrupt:
        console.print("Stopped.")


def page(settings: Settings) -> str:
    """The address of the page, for a person."""
    host, port = host_port(settings.gateway_listen)
    return f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{port}"  # noqa: S104 compared, not listened on


def up_settings(
    *,
    data: Path | None,
    grpc_port: int | None,
    learner_port: int | None,
    http_port: int | None,
    ops_port: int | None,
    events_url: str | None,
    weights_url: str | None,
    take_over: bool | None,
) -> Settings:
    """The settings with the ports of the command line; the hosts stay. Raises Misconfigured."""
    base = load_settings(data=data, events_url=events_url, weights_url=weights_url, take_over=take_over)
    ports = {"inference_listen": grpc_port, "learner_listen": learner_port, "gateway_listen": http_port}
    if ops_port is not None:
        ports |= {"gateway_ops_listen": ops_port, "inference_ops_listen": ops_port + 1, "learner_ops_listen": ops_port + 2}
    update = {name: f"{host_port(getattr(base, name))[0]}:{port}" for name, port in ports.items() if port is not None}
    return base.model_copy(update=update)


def supervise(loop: Loop, console: Console) -> None:
    """Start again what dies, until interrupted.

    Raises:
        Misconfigured: inference or the gateway keeps dying, or says that it is misconfigured. The learner's trouble never stops serving.
    """
    started = dict.fromkeys(loop.services, time.monotonic())
    deaths = dict.fromkeys(loop.services, 0)
    again_at: dict[str, float] = {}
    while True:
        time.sleep(_LOOK)
        now = time.monotonic()
        for service in [service for service, process in loop.processes.items() if process.poll() is not None]:
            if service not in again_at:
                deaths[service] = deaths[service] + 1 if now - started[service] < _QUICK else 1
                hopeless = loop.processes[service].returncode == MISCONFIGURED or deaths[service] >= _QUICK_DEATHS
                if hopeless and service != "learner":
                    raise Misconfigured(loop.failure(service))
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (deaths[service] - 1))
                console.print(f"{loop.failure(service)}. Starting it again in {wait:.0f} s.", style="yellow", soft_wrap=True)
                again_at[service] = now + wait
            elif now >= again_at[service]:
                del again_at[service]
                loop.launch(service)
                started[service] = now


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
