"""`liveloop bench swap`: what updates cost those who wait for answers. Knows a serving process from outside, and its store.

Stretches of three kinds take turns, each round with the same arrivals:

    without    nothing is published
    with       recorded versions arrive in the store of the process that serves
    floor      they arrive in a store of their own, which a process follows that serves nobody: the same work on the same cores at the
               same priority, but no lock and no interpreter in common. What that costs no design can avoid on this machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from liveloop.client import Client
from liveloop.errors import LiveloopError
from liveloop.settings import Settings, load_settings
from services.commands.assets import demo_assets
from services.commands.bench.delivery import first_version, milliseconds
from services.commands.bench.recorded import Source, demo_source, record
from services.commands.bench.replay import Patches, Replay, own_corner, replaying, stage_all
from services.commands.bench.tables import print_swap, progress
from services.commands.bench.worker import Worker
from services.commands.processes import Loop, free_settings
from services.commands.raters import read_study

_KINDS = ("without", "with", "floor")
_LEARNING_RATE = 2e-5
_LOAD = 0.6
"""Share of what the process can answer at most."""
_CALLERS = 16
_REPLAYED = 10
"""Recorded steps that are replayed, the last ones of the recording."""
_PAUSE = 1.0
"""Seconds between two stretches: all that was published is served by then."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    seconds: float = 60.0  # of each kind
    rounds: int = 6  # into which they are cut
    versions_per_second: float = 5.0
    steps: int = 20
    capacity_seconds: float = 5.0


def bench_swap(settings: Settings, extent: Extent, *, weights_url: str | None, as_json: bool, console: Console) -> None:
    """Measure and print. Raises Misconfigured."""
    torch.set_num_threads(settings.learner_threads or os.cpu_count() or 1)
    source = demo_source(settings, console, judged=settings.micro_batch * extent.steps)
    texts = [item.text for item in read_study(demo_assets(settings.cache, console).study).reviews_test]
    found = measure(source, texts, settings, extent, weights_url=weights_url, console=console)
    if as_json:
        print(json.dumps(found))  # noqa: T201  one line for a machine
    else:
        print_swap(found, console)


def measure(
    source: Source, texts: Sequence[str], settings: Settings, extent: Extent, *, weights_url: str | None, console: Console
) -> dict[str, Any]:
    """p50 and p99 of each kind of stretch, and what was asked."""
    with progress(console) as tick, TemporaryDirectory(prefix="liveloop-bench-") as folder, ExitStack() as stack:
        tick(f"recording {extent.steps} steps")
        versions = list(record(source, settings, learning_rate=_LEARNING_RATE, steps=extent.steps))[-_REPLAYED - 1 :]
        patches = stage_all(versions, source.bundle.layout)
        url = weights_url if weights_url and not weights_url.startswith("file:") else ""
        served, apart = (
            free_settings(load_settings(data=Path(folder) / name, weights_url=own_corner(url) if url else ""))
            for name in ("served", "apart")
        )
        replays = {
            kind: stack.enter_context(_replay(own, source, versions[0], patches)) for kind, own in (("with", served), ("floor", apart))
        }
        tick("starting a process that serves, and one that only follows")
        stack.enter_context(Loop(served, services=["inference"]))
        follower = {"data": str(apart.data), "weights_url": apart.weights_url}
        stack.enter_context(Worker("services.commands.bench.pod", **follower)).hear(120.0)
        load = stack.enter_context(Worker("services.commands.bench.load", target=served.inference_listen, texts=list(texts)))
        return {"store": "redis" if url else "directory", **_stretches(load, replays, extent, served.inference_listen, tick)}


@contextmanager
def _replay(settings: Settings, source: Source, bits: Any, patches: Patches) -> Iterator[Replay]:
    key = first_version(settings, source.bundle, bits)
    with replaying(settings, key, patches) as replay:
        yield replay


def _stretches(load: Worker, replays: dict[str, Replay], extent: Extent, target: str, tick: Callable[[str], None]) -> dict[str, Any]:
    tick("measuring what the process can answer")
    load.tell(callers=_CALLERS, seconds=extent.capacity_seconds)
    capacity = load.hear()["per_second"]
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for number in range(extent.rounds):
        for kind in (*_KINDS[number % 3 :], *_KINDS[: number % 3]):
            tick(f"round {number + 1} of {extent.rounds}, {kind}")
            time.sleep(_PAUSE)
            load.tell(rate=_LOAD * capacity, seconds=extent.seconds / extent.rounds, seed=number)
            if kind in replays:
                _publish(replays[kind], extent)
            found[kind].append(load.hear(extent.seconds + 60.0))
    _wait_until_served(target, replays["with"].versions[-1])
    return _figures(found, replays["with"], extent, capacity)


def _publish(replay: Replay, extent: Extent) -> None:
    start = time.monotonic()
    for number in range(int(extent.seconds / extent.rounds * extent.versions_per_second)):
        time.sleep(max(0.0, start + number / extent.versions_per_second - time.monotonic()))
        replay.publish()


def _wait_until_served(target: str, version: int, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    with Client(target) as client:
        while (served := client.model().version) != version:
            if time.monotonic() > deadline:
                raise LiveloopError(f"version {served} is still served {timeout:.0f} s after version {version} was published")
            time.sleep(0.05)


def _figures(found: dict[str, list[dict[str, Any]]], replay: Replay, extent: Extent, capacity: float) -> dict[str, Any]:
    times = {kind: milliseconds([took for stretch in stretches for took in stretch["seconds"]]) for kind, stretches in found.items()}
    p50, p99 = ({kind: times[kind][name] for kind in _KINDS} for name in ("p50", "p99"))
    everything = [stretch for stretches in found.values() for stretch in stretches]
    named = {version for stretch in everything for version in stretch["versions"]}
    failed = sum(stretch["failed"] for stretch in everything)
    return {
        "p99_ms": p99,
        "p50_ms": p50,
        "ratio": round(p99["with"] / p99["without"], 3),
        "floor_ratio": round(p99["floor"] / p99["without"], 3),
        "failed": failed,
        "unknown_versions": len(named - set(replay.versions)),
        "versions_per_second": round((len(replay.versions) - 1) / extent.seconds, 2),
        "capacity_per_second": round(capacity, 1),
        "rate": round(_LOAD * capacity, 1),
        "requests": sum(len(stretch["seconds"]) for stretch in everything) + failed,
    }
