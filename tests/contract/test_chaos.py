"""Every pod holds exactly the version it says it serves and never goes back, whatever happens to the store, the learner and the pods.

LIVELOOP_CHAOS_SEED=N repeats the faults of a run that failed: their kinds, places and order; threads meet them as they come.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from liveloop.weights import mirror as mirroring
from liveloop.weights import publisher as publishing
from liveloop.weights import redis_client, subscriber
from liveloop.weights.state import CHUNK
from tests.chaos.faults import Disaster
from tests.chaos.swarm import Learner, Ledger, Pod
from tests.servers import ValkeyServer

PATIENCE = 60.0
PODS = 3


@dataclass(frozen=True)
class Size:
    """How much happens."""

    versions: int
    total: int
    frozen: int
    changes: int  # values of a usual version


SMALL = Size(versions=250, total=CHUNK // 4, frozen=CHUNK // 8, changes=200)
MANY = Size(versions=10_000, total=1_000_000, frozen=300_000, changes=20_000)
LARGE = Size(versions=300, total=22_713_984, frozen=11_720_448, changes=200_000)


@pytest.mark.parametrize(
    "size",
    [
        SMALL,
        pytest.param(MANY, marks=[pytest.mark.nightly, pytest.mark.timeout(7200)]),
        pytest.param(LARGE, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)]),
    ],
    ids=["small", "10000-versions", "minilm"],
)
def test_pods_hold_what_was_published_whatever_happens(tmp_path: Path, size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int(os.environ.get("LIVELOOP_CHAOS_SEED") or time.time_ns() % 1_000_000)
    print(f"LIVELOOP_CHAOS_SEED={seed}")
    hasten(monkeypatch, timeout=0.5 if size.total <= MANY.total else 3.0)
    server = ValkeyServer(tmp_path / "valkey")
    server.start()
    ledger, rng = Ledger(), random.Random(seed)
    learner = Learner(tmp_path / "learner", server.url, ledger, np.random.default_rng(seed), total=size.total, frozen=size.frozen)
    pods = [Pod(tmp_path / str(n), server.url, ledger, random.Random(seed + n), share=0.02) for n in range(PODS)]
    disaster = Disaster(server, rng)
    try:
        for pod in pods:
            pod.start()
        for number in range(size.versions):
            happen(rng, disaster, learner, pods)
            learner.publish(rng.choice([0, 1, size.changes, size.changes, size.changes, 10 * size.changes]))
            if number % 50 == 49:
                learner.collect()
            give_a_moment(learner, pods)
        disaster.end()
        calm_down(learner, pods)
        seen = sum((pod.seen for pod in pods), Counter[str]())
        print(f"{size.versions} versions, {len(disaster.happened)} disasters, pods: {dict(seen)}")
        for kind in ("patches", "keyframe", "killed", "BlobCorrupt", "BlobMissing", "StaleHead", "BLESSED"):
            assert seen[kind], f"no pod met this: {kind}"
        assert len(set(disaster.happened)) == 10
    finally:
        disaster.close()
        learner.close()
        for pod in pods:
            pod.stop()
        server.kill()


def hasten(monkeypatch: pytest.MonkeyPatch, *, timeout: float) -> None:
    """What waits for seconds in earnest waits for tenths here, so that much happens; keyframes come often."""
    monkeypatch.setattr(mirroring, "_CHECK", 0.2)
    monkeypatch.setattr(mirroring, "_FIRST_REST", 0.02)
    monkeypatch.setattr(subscriber, "_FIRST_REST", 0.01)
    monkeypatch.setattr(subscriber, "_LONGEST_REST", 0.2)
    monkeypatch.setattr(redis_client, "_TIMEOUT", timeout)
    monkeypatch.setattr(publishing, "KEYFRAME_INTERVAL", 12)


def happen(rng: random.Random, disaster: Disaster, learner: Learner, pods: list[Pod]) -> None:
    """What comes between two versions."""
    raise_failures(pods)
    if rng.random() < (0.15 if disaster.under_way else 0.2):
        disaster.end() if disaster.under_way else disaster.begin()
    if rng.random() < 0.04:
        rng.choice(pods).kill()
    if rng.random() < 0.1:
        learner.bless()
    if rng.random() < 0.02:
        rng.choice([learner.hand_over, learner.back_up, learner.go_back])()


def give_a_moment(learner: Learner, pods: list[Pod]) -> None:
    """Until all pods serve the newest version, or some time is over in which they might have."""
    deadline = time.monotonic() + 0.03
    while time.monotonic() < deadline and any(pod.served != learner.key for pod in pods):
        time.sleep(0.002)


def calm_down(learner: Learner, pods: list[Pod]) -> None:
    """Nothing goes wrong any more: every pod comes to the newest version."""
    for pod in pods:
        pod.set_share(0.0)
    learner.publish(10)

    deadline = time.monotonic() + PATIENCE
    while any((pod.served, pod.version) != (learner.key, learner.current) for pod in pods):
        raise_failures(pods)
        told = "; ".join(f"{pod.served} version {pod.version}: {pod.trouble}" for pod in pods)
        assert time.monotonic() < deadline, f"{learner.key} version {learner.current} is not reached by all: {told}"
        time.sleep(0.02)


def raise_failures(pods: list[Pod]) -> None:
    """What a pod found to be wrong fails the test."""
    for pod in pods:
        if pod.failure is not None:
            raise pod.failure
