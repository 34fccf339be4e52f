"""A process that asks at random times, whether or not earlier answers came: an open loop. Knows the contract; knows no service.

Told {"target": ..., "texts": [...]} first, then either of

    {"callers": 16, "seconds": 5}                  as fast as so many callers in a closed loop can: {"per_second": ...}
    {"rate": 60, "seconds": 10, "seed": 1}         Poisson arrivals: {"seconds": [...], "failed": 0, "versions": [...]}

A call's seconds count from its scheduled start: one that starts late waited.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc

from liveloop.rpc import CHANNEL_OPTIONS
from liveloop.v1.events_pb2 import Input
from liveloop.v1.inference_pb2 import PredictRequest
from liveloop.v1.inference_pb2_grpc import InferenceServiceStub
from services.commands.bench.worker import messages, tell

_TIMEOUT = 30.0
"""Seconds after which a call failed."""


class _Stretch:
    """What the calls of one stretch saw; they end in threads of gRPC's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self._seconds: list[float] = []
        self._failed = 0
        self._versions: set[int] = set()

    def start(self, call: Any, scheduled: float) -> None:
        with self._changed:
            self._waiting += 1
        call.add_done_callback(partial(self._done, scheduled))

    def result(self) -> dict[str, Any]:
        """Once all calls have ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0)
        return {"seconds": self._seconds, "failed": self._failed, "versions": sorted(self._versions)}

    def _done(self, scheduled: float, call: Any) -> None:
        took = time.monotonic() - scheduled
        with self._changed:
            if call.code() is grpc.StatusCode.OK:
                self._seconds.append(took)
                self._versions.add(call.result().predictions[0].version)
            else:
                self._failed += 1
            self._waiting -= 1
            self._changed.notify_all()


def main() -> None:
    """Ask as told."""
    told = messages()
    first = next(told)
    stub = InferenceServiceStub(grpc.insecure_channel(first["target"], options=CHANNEL_OPTIONS))
    requests = [PredictRequest(inputs=[Input(text=text)]) for text in first["texts"]]
    for message in told:
        if "callers" in message:
            tell(per_second=_capacity(stub, requests, int(message["callers"]), message["seconds"]))
        else:
            tell(**_arrivals(stub, requests, message["rate"], message["seconds"], message["seed"]))


def _capacity(stub: InferenceServiceStub, requests: list[PredictRequest], callers: int, seconds: float) -> float:
    deadline, counts = time.monotonic() + seconds, [0] * callers

    def ask(caller: int) -> None:
        rng = random.Random(caller)
        while time.monotonic() < deadline:
            stub.Predict(rng.choice(requests), timeout=_TIMEOUT)
            counts[caller] += 1

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(ask, range(callers)))
    return sum(counts) / seconds


def _arrivals(stub: InferenceServiceStub, requests: list[PredictRequest], rate: float, seconds: float, seed: int) -> dict[str, Any]:
    stretch, rng = _Stretch(), random.Random(seed)
    start = time.monotonic()
    for due in _poisson(rng, rate, seconds):
        time.sleep(max(0.0, start + due - time.monotonic()))
        stretch.start(stub.Predict.future(rng.choice(requests), timeout=_TIMEOUT), start + due)
    return stretch.result()


def _poisson(rng: random.Random, rate: float, seconds: float) -> Iterator[float]:
    due = rng.expovariate(rate)
    while due < seconds:
        yield due
        due += rng.expovariate(rate)


if __name__ == "__main__":
    main()
