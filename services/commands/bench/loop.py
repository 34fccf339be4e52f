"""`liveloop bench loop`: a real client against a running loop, measured from outside. Knows the client; knows no service's insides."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from liveloop.client import Client
from liveloop.errors import LiveloopError
from liveloop.settings import Settings
from liveloop.v1.inference_pb2 import ACK_STATUS_ACCEPTED
from services.commands.freshness import Freshness, Thumb, percentile
from services.commands.processes import Loop, free_settings

_SUBJECTS = ("The film", "This story", "The whole cast", "Her last picture", "The second half", "That ending", "The score", "His script")
_VERDICTS = ("is a delight", "drags on for ever", "has wit and warmth", "never comes alive", "was worth every minute", "is a tired copy")
_REMARKS = (
    "and I would see it again",
    "although the start is slow",
    "in spite of itself",
    "if you like that sort of thing",
    "from first to last",
)
_CALLERS = 16
"""Threads that wait for answers: at 20 calls a second one would be enough, unless answers take a second."""
_BATCH = 32
"""Inputs in one call while throughput is measured."""


@dataclass(slots=True)
class Calls:
    """What a stretch of predictions at a steady rate saw."""

    seconds: list[float] = field(default_factory=list)  # each from its scheduled start: a late start counts as waiting
    failed: int = 0


def bench_loop(settings: Settings, *, seconds: float, rate: float, thumbs: float, attach: bool, as_json: bool, console: Console) -> None:
    """Measure a loop started for it, or with `attach` the one that runs with these settings, and print what was found."""
    with nullcontext((settings, None, 0.0)) if attach else _started(settings, console) as (running, loop, started):
        with Client(running.inference_listen, learner=running.learner_listen, timeout=30.0) as client:
            client.predict(_text(random.Random(0)), store=False)
            first_answer = time.monotonic() - started if loop else None
            found = _measure(client, seconds=seconds, rate=rate, thumbs=thumbs, console=console)
        found["first_answer_seconds"] = first_answer
        found["memory_mb"] = _memory(loop) if loop else None
    if as_json:
        print(json.dumps(found))  # noqa: T201  one line for a machine
    else:
        _print(found, console)


def _measure(client: Client, *, seconds: float, rate: float, thumbs: float, console: Console) -> dict[str, Any]:
    freshness = Freshness()
    with Progress(console=console, transient=True) as bar:
        bar.add_task("without updates", total=None)
        _wait_until_settled(client)
        quiet = _predict_steadily(client, seconds, rate, freshness)
    with Progress(console=console, transient=True) as bar:
        bar.add_task("with updates", total=None)
        before = client.versions(1)[0].version
        stop = threading.Event()
        with ThreadPoolExecutor(1) as judges:
            judging = judges.submit(_judge, client, thumbs, freshness, stop)
            try:
                busy = _predict_steadily(client, seconds, rate, freshness)
            finally:
                stop.set()
        judging.result()
        versions = client.versions(1)[0].version - before
        _predict_until_served(client, freshness)
    with Progress(console=console, transient=True) as bar:
        bar.add_task("throughput", total=None)
        _wait_until_settled(client)
        throughput = _throughput(client, min(seconds, 10.0))
    without, with_updates = _percentiles(quiet.seconds, 1e3), _percentiles(busy.seconds, 1e3)
    return {
        "freshness_seconds": _percentiles(freshness.seconds(), 1.0),
        "feedback": {"acknowledged": len(freshness.thumbs), "trained": freshness.trained},
        "predict_ms": {"without_updates": without, "with_updates": with_updates},
        "p99_ratio": round(with_updates["p99"] / without["p99"], 2) if with_updates["p99"] and without["p99"] else None,
        "versions_per_second": round(versions / seconds, 2),
        "failed": quiet.failed + busy.failed,
        "throughput_per_second": round(throughput, 1),
    }


def _predict_steadily(client: Client, seconds: float, rate: float, freshness: Freshness) -> Calls:
    """Open loop: calls start on schedule whether or not earlier ones were answered."""
    calls, rng, lock = Calls(), random.Random(1), threading.Lock()

    def call(text: str, scheduled: float) -> None:
        try:
            version, now = client.predict(text).version, time.monotonic()
            with lock:
                freshness.answered(version, now)
                calls.seconds.append(now - scheduled)
        except Exception:  # noqa: BLE001  whatever it was, the call failed
            with lock:
                calls.failed += 1

    with ThreadPoolExecutor(_CALLERS) as pool:
        start = time.monotonic()
        for number in range(int(seconds * rate)):
            scheduled = start + number / rate
            time.sleep(max(0.0, scheduled - time.monotonic()))
            pool.submit(call, _text(rng), scheduled)
    return calls


def _judge(client: Client, rate: float, freshness: Freshness, stop: threading.Event) -> None:
    """Thumbs up at a steady mean rate, at random times, so that they meet the loop in every phase."""
    rng = random.Random(2)
    while not stop.wait(rng.expovariate(rate)):
        prediction = client.predict(_text(rng))
        ack = client.feedback(prediction, "up")
        if ack.status != ACK_STATUS_ACCEPTED:
            raise LiveloopError(f"a thumb was not accepted: {ack.reason}")
        freshness.thumbs.append(Thumb(prediction.prediction_id, ack.feedback_id, time.monotonic()))


def _predict_until_served(client: Client, freshness: Freshness) -> None:
    rng, deadline = random.Random(3), time.monotonic() + 30
    while (freshness.waiting or len(freshness.seconds()) < freshness.trained) and time.monotonic() < deadline:
        freshness.answered(client.predict(_text(rng), store=False).version, time.monotonic())
        freshness.follow(client)
        time.sleep(0.05)


def _wait_until_settled(client: Client) -> None:
    """Until no new version came for two seconds."""
    version, since, deadline = 0, time.monotonic(), time.monotonic() + 60
    while time.monotonic() - since < 2.0 and time.monotonic() < deadline:
        newest = client.model().version
        if newest != version:
            version, since = newest, time.monotonic()
        time.sleep(0.1)


def _throughput(client: Client, seconds: float) -> float:
    """Inputs answered per second by two callers, each with its next call ready."""
    rng, counts, deadline = random.Random(4), [0, 0], time.monotonic() + seconds

    def call(caller: int) -> None:
        while time.monotonic() < deadline:
            counts[caller] += len(client.predict([_text(rng) for _ in range(_BATCH)], store=False))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(call, range(2)))
    return sum(counts) / seconds


def _percentiles(seconds: list[float], scale: float) -> dict[str, float | None]:
    """None where nothing was measured."""
    found = {f"p{share}": percentile(seconds, share / 100) for share in (50, 95, 99)}
    return {name: None if value is None else round(scale * value, 3) for name, value in found.items()}


def _text(rng: random.Random) -> str:
    return f"{rng.choice(_SUBJECTS)} {rng.choice(_VERDICTS)}, {rng.choice(_REMARKS)} ({rng.randint(1, 9999)})."


@contextmanager
def _started(settings: Settings, console: Console) -> Iterator[tuple[Settings, Loop, float]]:
    from services.commands.init import prepare_demo

    with TemporaryDirectory(prefix="liveloop-bench-") as folder:
        own = free_settings(settings.model_copy(update={"data": Path(folder) / "data"}))
        prepare_demo(own, console)
        started = time.monotonic()
        with Loop(own) as loop:
            yield own, loop, started


def _memory(loop: Loop) -> dict[str, int]:
    """Proportional set size in MB: pages that processes share count once."""
    found = {}
    for service, process in loop.processes.items():
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        found[service] = int(next(line for line in lines if line.startswith("Pss:")).split()[1]) // 1024
    return {**found, "together": sum(found.values())}


def _print(found: dict[str, Any], console: Console) -> None:
    table = Table("measure", "p50", "p95", "p99", title="liveloop bench loop")
    fresh, quiet, busy = found["freshness_seconds"], found["predict_ms"]["without_updates"], found["predict_ms"]["with_updates"]
    for title, values, digits in (
        ("feedback to served, s", fresh, 2),
        ("predict without updates, ms", quiet, 0),
        ("predict with updates, ms", busy, 0),
    ):
        table.add_row(title, *("-" if value is None else f"{value:.{digits}f}" for value in values.values()))
    console.print(table)
    console.print(f"predict p99 with updates / without: {found['p99_ratio']}; failed requests: {found['failed']}")
    console.print(
        f"versions: {found['versions_per_second']} per second; throughput: {found['throughput_per_second']} predictions per second"
    )
    if found["memory_mb"]:
        console.print(f"first answer after {found['first_answer_seconds']:.1f} s; memory, MB: {found['memory_mb']}")
