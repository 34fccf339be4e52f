"""The batcher: who runs with whom, and who does not run at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from itertools import permutations

import pytest

from liveloop.errors import DeadlinePassed, LiveloopError, Overloaded, Unavailable
from liveloop.tasks import Answer, Encoded
from liveloop.weights.channels import Channel
from services.inference.batcher import Batcher


class Model:
    """Answers each input with its length, in a version that rises with each batch; holds back while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.channels: list[Channel] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()

    def __call__(self, inputs: Sequence[Encoded], channel: Channel) -> tuple[Channel, int, Sequence[Answer]]:
        self.batches.append([len(item.tokens) for item in inputs])
        self.channels.append(channel)
        self.running.set()
        assert self.gate.wait(20)
        if any(len(item.tokens) == 13 for item in inputs):
            raise RuntimeError("thirteen")
        return channel, len(self.batches), [Answer(len(item.tokens), (1.0,), 1.0) for item in inputs]


class Harness:
    """A started batcher whose model is held by a first input, so that what comes next queues."""

    def __init__(self, *, limit: int = 100, batch_tokens: int = 1000) -> None:
        self.model = Model()
        self.sizes: list[int] = []
        self.now = 0.0
        self.batcher = Batcher(self.model, limit=limit, batch_tokens=batch_tokens, observe=self.sizes.append, clock=lambda: self.now)

    async def __aenter__(self) -> Harness:
        self.batcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.model.gate.set()
        await self.batcher.stop()

    async def busy(self) -> asyncio.Task[list[int]]:
        self.model.gate.clear()
        self.model.running.clear()
        first = self.ask(1)
        assert await asyncio.to_thread(self.model.running.wait, 20)
        return first

    def ask(self, *lengths: int, channels: Sequence[Channel] = (), deadline: float = 1e9) -> asyncio.Task[list[int]]:
        async def call() -> list[int]:
            found = await self.batcher.submit([Encoded((0,) * length, False) for length in lengths], channels=channels, deadline=deadline)
            return [computed.answer.label for computed in found]

        return asyncio.create_task(call())

    async def queued(self, depth: int) -> None:
        async with asyncio.timeout(20):
            while self.batcher.depth != depth:
                await asyncio.sleep(0)


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_an_input_that_finds_the_model_free_runs_at_once_and_alone():
    async def scenario() -> None:
        async with Harness() as harness:
            assert await harness.ask(5) == [5]
            assert await harness.ask(6) == [6]
            assert harness.model.batches == [[5], [6]]
            assert harness.sizes == [1, 1]

    run(scenario)


def test_what_queued_while_the_model_was_busy_runs_sorted_by_length_within_the_token_budget():
    async def scenario() -> None:
        async with Harness(batch_tokens=20) as harness:
            first = await harness.busy()
            calls = [harness.ask(9, 2), harness.ask(30), harness.ask(3, 8, 4)]
            await harness.queued(6)
            harness.model.gate.set()
            assert await asyncio.gather(first, *calls) == [[1], [9, 2], [30], [3, 8, 4]]
            assert harness.model.batches == [[1], [2, 3, 4], [8, 9], [30]]

    run(scenario)


def test_one_calls_inputs_may_be_computed_by_several_versions_and_each_answer_names_its_own():
    async def scenario() -> None:
        async with Harness(batch_tokens=10) as harness:
            found = await harness.batcher.submit([Encoded((0,) * length, False) for length in (8, 2, 9)])
            assert [(computed.answer.label, computed.version) for computed in found] == [(8, 2), (2, 1), (9, 3)]

    run(scenario)


def test_a_batch_is_of_one_channel_and_the_channels_take_turns():
    current, blessed = Channel.CURRENT, Channel.BLESSED

    async def scenario() -> None:
        async with Harness(batch_tokens=10) as harness:
            first = await harness.busy()
            calls = [harness.ask(9, 2, 8, 3, channels=[current, blessed, current, current]), harness.ask(7, channels=[blessed])]
            await harness.queued(5)
            harness.model.gate.set()
            assert await asyncio.gather(first, *calls) == [[1], [9, 2, 8, 3], [7]]
            assert harness.model.batches == [[1], [2], [3], [7], [8], [9]]
            assert harness.model.channels == [current, blessed, current, blessed, current, current]

    run(scenario)


def test_the_channel_that_waited_runs_before_the_one_that_ran_last():
    async def scenario() -> None:
        async with Harness() as harness:
            for last, other in permutations(Channel, 2):
                harness.model.gate.clear()
                harness.model.running.clear()
                first = harness.ask(1, channels=[last])
                assert await asyncio.to_thread(harness.model.running.wait, 20)
                calls = [harness.ask(2, channels=[last]), harness.ask(3, channels=[other])]
                await harness.queued(2)
                harness.model.gate.set()
                await asyncio.gather(first, *calls)
                assert harness.model.channels[-3:] == [last, other, last]

    run(scenario)


def test_a_call_whose_deadline_passed_in_the_queue_is_refused_before_the_model_runs():
    async def scenario() -> None:
        async with Harness() as harness:
            first = await harness.busy()
            late, patient = harness.ask(3, deadline=5.0), harness.ask(4, deadline=50.0)
            await harness.queued(2)
            harness.now = 5.0
            harness.model.gate.set()
            with pytest.raises(DeadlinePassed):
                await late
            assert await patient == [4]
            await first
            assert harness.model.batches == [[1], [4]]

    run(scenario)


def test_too_many_waiting_inputs_are_refused_at_once_and_told_when_to_come_back():
    async def scenario() -> None:
        async with Harness(limit=3) as harness:
            first = await harness.busy()
            waiting = harness.ask(2, 2)
            await harness.queued(2)
            with pytest.raises(Overloaded) as refused:
                await harness.ask(3, 3)
            assert refused.value.retry_after > 0
            fits = harness.ask(4)
            await harness.queued(3)
            harness.model.gate.set()
            assert await asyncio.gather(first, waiting, fits) == [[1], [2, 2], [4]]
            assert harness.model.batches == [[1], [2, 2, 4]]

    run(scenario)


def test_a_call_larger_than_the_queue_is_taken_when_nobody_waits():
    async def scenario() -> None:
        async with Harness(limit=1) as harness:
            assert await harness.ask(2, 3, 4) == [2, 3, 4]

    run(scenario)


def test_the_inputs_of_a_caller_who_went_away_make_room_and_are_not_run():
    async def scenario() -> None:
        async with Harness(limit=2) as harness:
            first = await harness.busy()
            gone = harness.ask(7, 7)
            await harness.queued(2)
            gone.cancel()
            await harness.queued(0)
            stays = harness.ask(8, 8)
            await harness.queued(2)
            harness.model.gate.set()
            assert await asyncio.gather(first, stays) == [[1], [8, 8]]
            assert harness.model.batches == [[1], [8, 8]]
            assert harness.batcher.depth == 0

    run(scenario)


def test_a_caller_who_goes_away_while_the_model_runs_disturbs_nobody():
    async def scenario() -> None:
        async with Harness() as harness:
            first = await harness.busy()
            first.cancel()
            second = harness.ask(2)
            await harness.queued(1)
            harness.model.gate.set()
            assert await second == [2]
            assert first.cancelled()
            assert harness.batcher.depth == 0

    run(scenario)


def test_a_batch_that_fails_fails_its_own_calls_and_no_other():
    async def scenario() -> None:
        async with Harness(batch_tokens=13) as harness:
            first = await harness.busy()
            bad, good = harness.ask(13, 2), harness.ask(3)
            await harness.queued(3)
            harness.model.gate.set()
            assert await asyncio.gather(first, good) == [[1], [3]]
            with pytest.raises(LiveloopError):
                await bad
            assert await harness.ask(4) == [4]

    run(scenario)


def test_stop_answers_what_is_here_and_refuses_what_comes():
    async def scenario() -> None:
        async with Harness() as harness:
            first = await harness.busy()
            waiting = harness.ask(2)
            await harness.queued(1)
            stopping = asyncio.create_task(harness.batcher.stop())
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await harness.ask(3)
            harness.model.gate.set()
            await stopping
            assert await asyncio.gather(first, waiting) == [[1], [2]]

    run(scenario)
