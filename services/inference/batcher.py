"""Turns what queued while the model was busy into the next batches. Knows asyncio and lengths; knows no gRPC and no model.

It never waits for company: an input that finds the model free runs at once, alone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from liveloop.errors import DeadlinePassed, LiveloopError, Overloaded, Unavailable
from liveloop.tasks import Answer, Encoded
from liveloop.telemetry import logger

Compute = Callable[[Sequence[Encoded]], tuple[int, Sequence[Answer]]]
"""Answers one batch, in order; also says which version did. Runs in the batcher's own thread, one batch at a time."""


@dataclass(frozen=True, slots=True)
class Computed:
    """One answer, and the one version that computed it."""

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

    async def submit(self, inputs: Sequence[Encoded], *, deadline: float = math.inf) -> list[Computed]:
        """Answers, in the order of the inputs. `deadline` is a time of the batcher's clock.

        Raises Overloaded when too many inputs wait, DeadlinePassed when the model could not start in time, Unavailable when stopping.
        """
        if self._stopping:
            raise Unavailable("this process is stopping")
        if self._depth and self._depth + len(inputs) > self._limit:
            raise Overloaded("too many inputs wait for the model", retry_after=self._depth * self._seconds_per_input)
        call = _Call([None] * len(inputs), asyncio.get_running_loop().create_future(), deadline, len(inputs), len(inputs))
        self._queue += [_Item(call, index, encoded) for index, encoded in enumerate(inputs)]
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
            for batch in cut(sorted(queued, key=lambda item: len(item.encoded.tokens)), self._batch_tokens):
                await self._answer(batch)
            if self._stopping and not self._queue:
                return

    async def _answer(self, batch: Sequence[_Item]) -> None:
        live = [item for item in batch if self._still_wanted(item.call)]
        if not live:
            return
        for item in live:
            item.call.waiting -= 1
        self._depth -= len(live)
        started = self._clock()
        try:
            inputs = [item.encoded for item in live]
            version, answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, inputs)
            found = list(zip(live, answers, strict=True))
        except Exception:  # noqa: BLE001  the top of the loop: one batch that cannot be computed must not end all others
            logger().exception("a batch failed", inputs=len(live))
            for item in live:
                self._fail(item.call, LiveloopError("the model could not compute this input"))
            return
        self._seconds_per_input += 0.1 * ((self._clock() - started) / len(live) - self._seconds_per_input)
        self._observe(len(live))
        for item, answer in found:
            self._give(item, Computed(version, answer))

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
