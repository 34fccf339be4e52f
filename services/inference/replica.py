"""fp32 weights over bf16 states: one served set for each channel, and one spare that is written before it is served. Knows no store.

A flip writes the spare and stores one reference: the set that was served until then is the next spare.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from liveloop.tasks import Task
from liveloop.v1.weights_pb2 import Layout
from liveloop.weights.channels import Channel
from liveloop.weights.patch import CHUNK
from liveloop.weights.state import chunk_count


@dataclass(eq=False, slots=True)
class WeightSet:
    """One set of weights and the model that computes from it. Written only while nobody holds it."""

    flat: np.ndarray  # fp32, [layout.total]
    model: torch.nn.Module
    channel: Channel  # the one it serves, or served last
    version: int
    holders: int = 0
    missed: set[int] = field(default_factory=set)  # the chunks in which its channel changed since


class Replica:
    """What is served: always one whole version for each channel."""

    def __init__(self, task: Task, layout: Layout, bits: np.ndarray, version: int) -> None:
        """Begin with one channel, CURRENT, and `bits`, its flat state as bf16 bit patterns (uint16, [layout.total]), read at every flip."""
        self._task, self._layout = task, layout
        self._chunks = range(chunk_count(len(bits)))
        self._bits = {Channel.CURRENT: bits}
        self._free = threading.Condition()
        self._served = {Channel.CURRENT: self._new_set(Channel.CURRENT, bits, version)}
        self._spare = self._new_set(Channel.CURRENT, bits, version)

    @property
    def version(self) -> int:
        """The version that CURRENT serves now."""
        return self._served[Channel.CURRENT].version

    @property
    def versions(self) -> dict[Channel, int]:
        """The version that each channel in use serves now."""
        return {channel: held.version for channel, held in self._served.copy().items()}

    @contextmanager
    def acquire(self, channel: Channel = Channel.CURRENT) -> Iterator[WeightSet]:
        """Hold a channel's served set for one batch: it does not change meanwhile. A channel that is not in use is answered by CURRENT."""
        with self._free:
            held = self._served.get(channel) or self._served[Channel.CURRENT]
            held.holders += 1
        try:
            yield held
        finally:
            with self._free:
                held.holders -= 1
                self._free.notify_all()

    def serves(self, channel: Channel, bits: np.ndarray) -> bool:
        """Whether a channel is in use and is served from the flat state `bits`, that very array."""
        return self._bits.get(channel) is bits and channel in self._served

    def is_exact(self, channel: Channel, chunk: int) -> bool:
        """Whether a chunk of what a channel serves is that of its state; for the thread that writes."""
        here = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        wide = np.left_shift(self._bits[channel][here], 16, dtype=np.uint32)
        return np.array_equal(wide, self._served[channel].flat.view(np.uint32)[here])

    def open(self, channel: Channel, bits: np.ndarray, version: int) -> None:
        """Serve one more channel, or one from another flat state, `bits`; like all that writes, for one thread alone."""
        opened = self._new_set(channel, bits, version)
        if self._spare.channel is channel:
            self._spare.missed.update(self._chunks)  # it was written from another state
        self._bits[channel], self._served[channel] = bits, opened

    def close(self, channel: Channel) -> None:
        """Let go of a channel; harmless where it is not in use."""
        self._bits.pop(channel, None)
        self._served.pop(channel, None)

    def flip(self, version: int, chunks: Iterable[int] | None, channel: Channel = Channel.CURRENT) -> None:
        """Serve the channel's state as it is now, as `version`; values in `chunks` changed since its last flip, None: in any.

        A chunk is widened whole: that takes a third of a millisecond, less than to look up the values that a step changed.

        Call it from one thread alone, the one that changes the states. Waits until nobody holds the spare set.
        """
        served, spare = self._served[channel], self._spare
        with self._free:
            self._free.wait_for(lambda: spare.holders == 0)  # nobody takes it up again before the swap below
        if spare.channel is not channel:
            spare.channel, spare.missed = channel, set(self._chunks)
        for one in (served, spare):
            one.missed.update(self._chunks if chunks is None else chunks)
        self._widen(spare.flat, self._bits[channel], sorted(spare.missed))
        spare.missed.clear()
        spare.version = version
        with self._free:
            self._served[channel], self._spare = spare, served

    def _new_set(self, channel: Channel, bits: np.ndarray, version: int) -> WeightSet:
        flat = np.empty(self._layout.total, np.float32)
        self._widen(flat, bits, self._chunks)
        return WeightSet(flat, self._task.new_model(self._layout, torch.from_numpy(flat)), channel, version)

    @staticmethod
    def _widen(flat: np.ndarray, bits: np.ndarray, chunks: Iterable[int]) -> None:
        """bf16 to fp32, exactly: its 16 bits are the upper half of the fp32 number."""
        wide = flat.view(np.uint32)
        for chunk in chunks:
            here = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            np.left_shift(bits[here], 16, out=wide[here], dtype=np.uint32)
