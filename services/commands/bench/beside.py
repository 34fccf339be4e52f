"""What a saturated relay costs those who wait for answers: the same process asked with its outbox full, and once it is empty."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from rich.console import Console

from liveloop.errors import LiveloopError
from liveloop.events.outbox import claim
from liveloop.settings import Settings, load_settings
from liveloop.v1.events_pb2 import Event
from services.commands.assets import demo_assets
from services.commands.bench import plain_kafka
from services.commands.bench.delivery import first_version, milliseconds
from services.commands.bench.events import events
from services.commands.bench.worker import Worker
from services.commands.demo_model import demo_start
from services.commands.processes import Loop, free_settings
from services.commands.raters import read_study

_LOAD = 0.6
"""Share of what the process can answer at most."""
_CALLERS = 16
_ROUNDS = 2
_GROUP = 256
"""Events in one group commit of a pod that has fallen behind."""
_CAPACITY = 4 << 30
_PER_SECOND = 75_000
"""Events that a relay moves in a second at the most: what is put into the outbox lasts for the stretch."""


def p99_ratio(settings: Settings, kafka: str, seconds: float, console: Console, tick: Callable[[str], None]) -> float:
    """p99 of predictions beside a saturated relay, over that beside an idle one.

    What saturates it is an outbox that another process left behind: the relay of the one that serves adopts it.
    Raises LiveloopError when a prediction failed, or the outbox ran empty too soon.
    """
    bundle, bits, _ = demo_start(settings, console)
    texts = [item.text for item in read_study(demo_assets(settings.cache, console).study).reviews_test]
    found: dict[str, list[float]] = {"saturated": [], "idle": []}
    with TemporaryDirectory(prefix="liveloop-bench-") as folder, ExitStack() as stack:
        topic = f"liveloop-bench-{uuid4().hex}"
        stack.callback(plain_kafka.remove, kafka, [topic])
        own = free_settings(load_settings(data=Path(folder) / "data", events_url=f"kafka://{kafka}/{topic}"))
        first_version(own, bundle, bits)
        tick("filling an outbox")
        _fill(Path(folder) / "full", int(seconds * _PER_SECOND))
        tick("measuring what a process that serves can answer")
        stack.enter_context(Loop(own, services=["inference"]))
        load = stack.enter_context(Worker("services.commands.bench.load", target=own.inference_listen, texts=texts))
        load.tell(callers=_CALLERS, seconds=seconds)
        rate = _LOAD * load.hear(60.0 + seconds)["per_second"]
        for number in range(_ROUNDS):
            left = _leave_behind(Path(folder) / "full" / "0.db", own.data / "outbox" / f"{number + 1}.db")
            for kind, took in found.items():
                tick(f"asking beside a relay that is {kind}")
                _wait_until(kind, left)
                load.tell(rate=rate, seconds=seconds, seed=number)
                stretch = load.hear(60.0 + seconds)
                took.extend(stretch["seconds"])
                if stretch["failed"]:
                    raise LiveloopError(f"{stretch['failed']} predictions failed beside a relay that is {kind}")
                if kind == "saturated" and not _waiting(left):
                    raise LiveloopError("the outbox ran empty before the stretch was over: measure for fewer seconds")
    return round(milliseconds(found["saturated"])["p99"] / milliseconds(found["idle"])["p99"], 2)


def _fill(folder: Path, count: int) -> None:
    with claim(folder, capacity=_CAPACITY, window=86_400.0) as outbox:
        group: list[Event] = []
        for event in events(count):
            group.append(event)
            if len(group) == _GROUP:
                outbox.log.write(group)
                group = []


def _leave_behind(full: Path, place: Path) -> Path:
    """Put a copy of a full outbox where the relay looks for those whose process is gone."""
    shutil.copyfile(full, place.with_suffix(".partial"))
    return place.with_suffix(".partial").rename(place)


def _waiting(outbox: Path) -> int:
    """Group commits in an outbox that were not relayed."""
    return _ask(outbox, "SELECT count(*) FROM batch WHERE position >= (SELECT position FROM released)")


def _wait_until(kind: str, outbox: Path, timeout: float = 300.0) -> None:
    """Until the relay is in the midst of it, or has moved it all."""
    deadline = time.monotonic() + timeout
    while _waiting(outbox) if kind == "idle" else not _ask(outbox, "SELECT position FROM released"):
        if time.monotonic() > deadline:
            raise LiveloopError(f"the relay was not {kind} in {timeout:.0f} s")
        time.sleep(0.1)


def _ask(outbox: Path, query: str) -> int:
    with closing(sqlite3.connect(f"file:{outbox}?mode=ro", uri=True, timeout=10.0)) as database:
        return int(database.execute(query).fetchone()[0])
