"""Two sets of fp32 weights over one bf16 state: one is served, the other is written, then they swap. Knows no store and no gRPC."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from liveloop.tasks import Task
from liveloop.v1.weights_pb2 import Layout

_SCATTER = 1 << 13
"""Positions written at a time: a fraction of a millisecond, then other threads may have the interpreter."""
_COPY = 1 << 20
"""Elements widened at a time where everything changed."""


@dataclass(eq=False, slots=True)
class WeightSet:
    """One set of weights and the model that computes from it. Written only while nobody holds it."""

    flat: np.ndarray  # fp32, [layout.total]
    model: torch.nn.Module
    version: int
    holders: int = 0
    missed: list[np.ndarray | None] = field(default_factory=list)  # positions changed since it was written; None: everything


class Replica:
    """What is served: always one whole version."""

    def __init__(self, task: Task, layout: Layout, bits: np.ndarray, version: int) -> None:
        """Both sets begin as `bits`, the flat state as bf16 bit patterns (uint16, [layout.total]), read again at every flip."""
        self._bits = bits
        self._free = threading.Condition()
        self._served, self._retired = (self._new_set(task, layout, version) for _ in range(2))

    @property
    def version(self) -> int:
        """The version served now."""
        return self._served.version

    @contextmanager
    def acquire(self) -> Iterator[WeightSet]:
        """Hold the served set for one batch: it does not change meanwhile."""
        with self._free:
            held = self._served
            held.holders += 1
        try:
            yield held
        finally:
            with self._free:
                held.holders -= 1
                self._free.notify_all()

    def flip(self, version: int, positions: np.ndarray | None) -> None:
        """Serve the state as it is now, as `version`; `positions` (sorted, int64) are those that changed, None where everything did.

        Call it from one thread alone, the one that changes the state. Waits until nobody holds the set that was retired before.
        """
        target = self._retired
        target.missed.append(positions)
        with self._free:
            self._free.wait_for(lambda: target.holders == 0)  # nobody takes it up again before the swap below
        for changed in [None] if any(missed is None for missed in target.missed) else target.missed:
            self._widen(target.flat, changed)
        target.missed.clear()
        target.version = version
        with self._free:
            self._served, self._retired = target, self._served
        self._retired.missed.append(positions)

    def _new_set(self, task: Task, layout: Layout, version: int) -> WeightSet:
        flat = np.empty(layout.total, np.float32)
        self._widen(flat, None)
        return WeightSet(flat, task.new_model(layout, torch.from_numpy(flat)), version)

    def _widen(self, flat: np.ndarray, positions: np.ndarray | None) -> None:
        """bf16 to fp32, exactly: its 16 bits are the upper half of the fp32 number."""
        wide = flat.view(np.uint32)
        if positions is None:
            for start in range(0, len(wide), _COPY):
                np.left_shift(self._bits[start : start + _COPY], 16, out=wide[start : start + _COPY], dtype=np.uint32)
        else:
            for start in range(0, len(positions), _SCATTER):
                some = positions[start : start + _SCATTER]
                wide[some] = self._bits[some].astype(np.uint32) << 16
