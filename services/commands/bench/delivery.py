"""From a publish to the flip of one pod or of many, and beside it the whole model pushed through the same store. Knows no traffic."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

from liveloop.keys import make_keys, signing_key
from liveloop.settings import Settings, load_settings
from liveloop.tasks.flat import widen
from liveloop.v1.weights_pb2 import ModelBundle
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.patch import Bits
from liveloop.weights.publisher import Publisher
from services.commands.bench.full_push import full_push
from services.commands.bench.replay import Replay, own_corner, replaying, stage_all
from services.commands.bench.worker import Worker
from services.commands.freshness import percentile

_PUSHES = 5
_PAUSE = 0.2
"""Seconds between two versions at the most: long enough for all pods to wait again."""
_LATE = 30.0
"""Seconds after which a flip counts as never happening."""

Tick = Callable[[str], None]
"""Told what is measured now."""


def measure_delivery(
    bundle: ModelBundle, recorded: Sequence[Bits], url: str | None, *, pods: Sequence[int], versions: int, tick: Tick
) -> dict[str, Any]:
    """Publish so many versions to each of these numbers of pods, over the store at `url`; None: a folder on this machine."""
    with TemporaryDirectory(prefix="liveloop-bench-") as folder:
        settings = load_settings(data=Path(folder) / "data", weights_url=own_corner(url) if url else "")
        flips = _flips(settings, bundle, recorded, pods=pods, versions=versions, tick=tick)
        pushes = _pushes(settings, bundle, recorded[0], settings.weights_url or Path(folder).as_uri(), readers=pods, tick=tick)
    return {"store": "redis" if url else "directory", **flips, **pushes}


def _flips(
    settings: Settings, bundle: ModelBundle, recorded: Sequence[Bits], *, pods: Sequence[int], versions: int, tick: Tick
) -> dict[str, Any]:
    key = first_version(settings, bundle, recorded[0])
    last: dict[str, dict[str, float]] = {}
    middle: dict[str, dict[str, float]] = {}
    patches = stage_all(recorded, bundle.layout)
    with replaying(settings, key, patches) as replay, ExitStack() as stack:
        workers: list[Worker] = []
        for count in pods:
            tick(f"from publish to flip, {count} pod{'s' * (count > 1)}")
            workers += _started(settings, count - len(workers), stack)
            found = [_flip(replay, workers) for _ in range(versions)]
            last[str(count)] = milliseconds([max(seconds) for seconds in found])
            middle[str(count)] = milliseconds([median(seconds) for seconds in found])
    p50 = {count: found["p50"] for count, found in last.items()}
    return {"publish_to_flip_ms": p50, "publish_to_flip_last_pod_ms": last, "publish_to_flip_median_pod_ms": middle}


def first_version(settings: Settings, bundle: ModelBundle, bits: Bits) -> Ed25519PrivateKey:
    """Keys and version 1 in the data folder."""
    make_keys(settings.data / "keys")
    key = signing_key(settings)
    with DirectoryStore(settings.data / "weights") as store:
        Publisher.first(store, key, bundle, bits).close()
    return key


def _started(settings: Settings, count: int, stack: ExitStack) -> list[Worker]:
    """So many pods, each with a version."""
    first = {"data": str(settings.data), "weights_url": settings.weights_url}
    workers = [stack.enter_context(Worker("services.commands.bench.pod", **first)) for _ in range(count)]
    for worker in workers:
        worker.hear(120.0)
    return workers


def _flip(replay: Replay, workers: Sequence[Worker]) -> list[float]:
    """Publish one version; seconds until each pod served it."""
    time.sleep(random.uniform(_PAUSE / 2, _PAUSE))
    version, began = replay.publish()
    return [_served_at(worker, version) - began for worker in workers]


def _served_at(worker: Worker, version: int) -> float:
    while (report := worker.hear(_LATE))["version"] != version:
        pass
    return float(report["at"])


def _pushes(settings: Settings, bundle: ModelBundle, bits: Bits, url: str, *, readers: Sequence[int], tick: Tick) -> dict[str, Any]:
    flat = widen(bits).numpy()
    tensors = {spec.name: flat[spec.offset : spec.offset + prod(spec.shape)].reshape(tuple(spec.shape)) for spec in bundle.layout.tensors}
    content = save(tensors)
    whole: dict[str, float] = {}
    chunked: dict[str, float] = {}
    files = {"password_file": settings.redis_password_file, "ca_file": settings.redis_ca_file}
    with full_push(url, content, readers=max(readers), **files) as push:
        for count in readers:
            tick(f"full push, {count} reader{'s' * (count > 1)}")
            whole[str(count)] = milliseconds([push.whole(count) for _ in range(_PUSHES)])["p50"]
            chunked[str(count)] = milliseconds([push.in_chunks(count) for _ in range(_PUSHES)])["p50"]
    return {"full_push_ms": whole, "full_push_best_ms": chunked, "full_push_bytes": len(content)}


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles."""
    return {f"p{share}": round(1e3 * (percentile(seconds, share / 100) or 0.0), 1) for share in (50, 90, 99)}
