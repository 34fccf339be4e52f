"""Turns what queued while the model was busy into the next batches. Knows asyncio and lengths; knows no gRPC and no model.

It never waits for company: an input that finds the model free runs at once, alone. A batch is of one channel; where several channels wait,
their batches take turns.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat, zip_longest

from liveloop.errors import DeadlinePassed, LiveloopError, Overloaded, Unavailable
from liveloop.tasks import Answer, Encoded
from liveloop.telemetry import logger
from liveloop.weights.channels import Channel

Compute = Callable[[Sequence[Encoded], Channel], tuple[Channel, int, Sequence[Answer]]]
"""Answers one batch, in order; also says which channel and version did. Runs in the batcher's own thread, one batch at a time."""


@dataclass(frozen=True, slots=True)
class Computed:
    """One answer, and the one version that computed it."""

    channel: Channel
    version: int
    answer: Answer


@dataclass(eq=False, slots=True)
class _Call:
    """One caller's inputs; they may end up in several batches."""

    results: list[Computed | None]
    done: asyncio.Future[list[Computed | None]]
    deadline: float
    waiting: int  # inputs not yet taken into a batch
    missing: int  # inputs not yet answered


@dataclass(frozen=True, slots=True)
class _Item:
    call: _Call
    index: int
    channel: Channel
    encoded: Encoded


class Batcher:
    """A bounded queue in front of one compute thread."""

    def __init__(
        self,
        compute: Compute,
        *,
        limit: int,
        batch_tokens: int,
        observe: Callable[[int], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most `limit` inputs wait; a batch holds at most `batch_tokens` tokens, padding counted; `observe` gets each batch's size."""
        self._compute = compute
        self._limit = limit
        self._batch_tokens = batch_tokens
        self._clock = clock
        self._observe = observe
        self._queue: list[_Item] = []
        self._last = Channel.CURRENT  # the channel of the last batch
        self._depth = 0
        self._seconds_per_input = 0.005  # until measured; only a hint for callers who are refused
        self._wake = asyncio.Event()
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._loop: asyncio.Task[None] | None = None

    @property
    def depth(self) -> int:
        """Inputs that wait for the model."""
        return self._depth

    def start(self) -> None:
        """Begin to take batches. Call it in the event loop."""
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Refuse new calls, finish the ones that are here, let go of the thread."""
        self._stopping = True
        self._wake.set()
        if self._loop is not None:
            await self._loop
        self._thread.shutdown()

    def check_room(self, count: int) -> None:
        """Raise Overloaded when that many inputs more were too many, Unavailable when stopping."""
        if self._stopping:
            raise Unavailable("this process is stopping")
        if self._depth and self._depth + count > self._limit:
            raise Overloaded("too many inputs wait for the model", retry_after=self._depth * self._seconds_per_input)

    async def submit(self, inputs: Sequence[Encoded], *, channels: Iterable[Channel] = (), deadline: float = math.inf) -> list[Computed]:
        """Answers, in the order of the inputs, each from its channel (none: all from CURRENT). `deadline` is a time of the batcher's clock.

        Raises Overloaded when too many inputs wait, DeadlinePassed when the model could not start in time, Unavailable when stopping.
        """
        self.check_room(len(inputs))
        call = _Call([None] * len(inputs), asyncio.get_running_loop().create_future(), deadline, len(inputs), len(inputs))
        asked = zip(inputs, chain(channels, repeat(Channel.CURRENT)), strict=False)
        self._queue += [_Item(call, index, channel, encoded) for index, (encoded, channel) in enumerate(asked)]
        self._depth += len(inputs)
        self._wake.set()
        try:
            return [result for result in await call.done if result is not None]
        finally:
            self._depth -= call.waiting  # of a caller who went away: its inputs stay in the queue as nothing, and are not run
            call.waiting = 0

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            queued, self._queue = self._queue, []
            for batch in self._batches(queued):
                await self._answer(batch)
            if self._stopping and not self._queue:
                return

    def _batches(self, items: Sequence[_Item]) -> Iterator[list[_Item]]:
        """Cut what queued into batches of one channel each, in turns; the channel that ran last comes last."""
        by_turns = sorted(Channel, key=lambda channel: (channel - self._last - 1) % len(Channel))
        queues = [[item for item in items if item.channel is channel] for channel in by_turns]
        batches = [cut(sorted(queue, key=lambda item: len(item.encoded.tokens)), self._batch_tokens) for queue in queues]
        return (batch for turn in zip_longest(*batches) for batch in turn if batch)

    async def _answer(self, batch: Sequence[_Item]) -> None:
        live = [item for item in batch if self._still_wanted(item.call)]
        if not live:
            return
        for item in live:
            item.call.waiting -= 1
        self._depth -= len(live)
        started, self._last = self._clock(), live[0].channel
        try:
            inputs = [item.encoded for item in live]
            task = asyncio.get_running_loop().run_in_executor(self._thread, self._compute, inputs, self._last)
            channel, version, answers = await task
            found = list(zip(live, answers, strict=True))
        except Exception:  # noqa: BLE001  the top of the loop: one batch that cannot be computed must not end all others
            logger().exception("a batch failed", inputs=len(live))
            for item in live:
                self._fail(item.call, LiveloopError("the model could not compute this input"))
            return
        self._seconds_per_input += 0.1 * ((self._clock() - started) / len(live) - self._seconds_per_input)
        self._observe(len(live))
        for item, answer in found:
            self._give(item, Computed(channel, version, answer))

    def _still_wanted(self, call: _Call) -> bool:
        if not call.done.done() and call.deadline <= self._clock():
            self._fail(call, DeadlinePassed("the deadline passed before the model ran"))
        return not call.done.done()

    @staticmethod
    def _fail(call: _Call, error: LiveloopError) -> None:
        if not call.done.done():
            call.done.set_exception(error)

    @staticmethod
    def _give(item: _Item, computed: Computed) -> None:
        call = item.call
        call.results[item.index] = computed
        call.missing -= 1
        if call.missing == 0 and not call.done.done():
            call.done.set_result(call.results)


def cut(items: Sequence[_Item], batch_tokens: int) -> Iterator[list[_Item]]:
    """Cut items, sorted by length, into batches whose width times rows is at most `batch_tokens`; an item longer than that runs alone."""
    batch: list[_Item] = []
    for item in items:
        if batch and len(item.encoded.tokens) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
