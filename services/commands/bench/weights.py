"""`liveloop bench weights`: what a version weighs, and how soon it is served, beside what others do. Puts the measurements together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from liveloop.settings import Settings
from liveloop.weights.patch import Bits
from services.commands.bench.delivery import measure_delivery
from services.commands.bench.patches import measure_patches
from services.commands.bench.recorded import LEARNING_RATES, SCOPES, Source, demo_source, record, scoped
from services.commands.bench.server import find_server, started
from services.commands.bench.tables import print_weights, progress

_MEASURED = 5
"""Patches of a recording that are measured, its last ones."""
_DELIVERED = 2e-5, "no-embeddings"
"""The learning rate and scope of the versions that are published to pods."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    steps: int = 20
    learning_rates: Sequence[float] = LEARNING_RATES
    scopes: Sequence[str] = SCOPES
    pods: Sequence[int] = (1, 8)
    versions: int = 20  # published to each number of pods


def bench_weights(settings: Settings, extent: Extent, *, weights_url: str | None, as_json: bool, console: Console) -> None:
    """Measure and print. Raises Misconfigured."""
    torch.set_num_threads(settings.learner_threads or os.cpu_count() or 1)
    source = demo_source(settings, console, judged=settings.micro_batch * extent.steps)
    found = measure(source, settings, extent, weights_url=weights_url, console=console)
    if as_json:
        print(json.dumps(found))  # noqa: T201  one line for a machine
    else:
        print_weights(found, console)


def measure(source: Source, settings: Settings, extent: Extent, *, weights_url: str | None, console: Console) -> dict[str, Any]:
    """Everything, on the directory store and where there is one on Redis; the figures on top are Redis's then."""
    with progress(console) as tick:
        patches = [
            {"lr": rate, "scope": scope, **_patches(scoped(source, scope), settings, rate, extent, tick)}
            for scope in extent.scopes
            for rate in extent.learning_rates
        ]
        rate, scope = _DELIVERED
        tick(f"recording {extent.steps} steps to publish")
        served = scoped(source, scope)
        recorded = list(record(served, settings, learning_rate=rate, steps=extent.steps))[-_MEASURED - 1 :]
        with _stores(weights_url) as urls:
            stores = [measure_delivery(served.bundle, recorded, url, pods=extent.pods, versions=extent.versions, tick=tick) for url in urls]
    return {"patches": patches, **stores[-1], "stores": {found["store"]: found for found in stores}}


def _patches(source: Source, settings: Settings, rate: float, extent: Extent, tick: Callable[[str], None]) -> dict[str, Any]:
    versions: list[Bits] = []
    for step, bits in enumerate(record(source, settings, learning_rate=rate, steps=extent.steps)):
        tick(f"learning rate {rate:g}, {source.bundle.layout.total - source.bundle.layout.frozen:,} weights train, step {step}")
        versions = [*versions[-_MEASURED:], bits]
    return measure_patches(source.bundle, versions)


@contextmanager
def _stores(weights_url: str | None) -> Iterator[list[str | None]]:
    """The stores to measure: the one named; else a folder, and a Redis server started for this where one is installed."""
    program = find_server()
    if weights_url is not None:
        yield [None if weights_url.startswith("file:") else weights_url]
    elif program is None:
        yield [None]
    else:
        with started(program) as url:
            yield [None, url]
