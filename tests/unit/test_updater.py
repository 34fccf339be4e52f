"""The updater: new weights are served, refused ones are not, and the log hears of every flip."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import pytest
from prometheus_client import REGISTRY

from liveloop.errors import BadSignature, LiveloopError, Unavailable
from liveloop.events.sqlite import Verdict
from liveloop.v1 import events_pb2
from liveloop.v1.events_pb2 import ChannelReport, Event
from liveloop.v1.weights_pb2 import Head, Manifest
from liveloop.weights.channels import Channel
from liveloop.weights.state import FlatState
from liveloop.weights.subscriber import Update
from liveloop.weights.versioned import VersionedState
from services.inference.tally import Tally
from services.inference.updater import Keeper, Updater


def held(version: int) -> VersionedState:
    state = FlatState(np.zeros(1, np.uint16))
    return VersionedState(state, Manifest(version=version, state_digest=state.digest))


class Subscriber:
    """Hands out what a test puts in."""

    def __init__(self) -> None:
        self.head = Head(epoch=1, revision=1)
        self.served = {Channel.CURRENT: held(1)}
        self.created_at = 990.0
        self.coming: queue.Queue[Update | Exception] = queue.Queue()
        self.kept = 0
        self.keeping: Exception | None = None

    def next(self, timeout: float) -> Update | None:
        try:
            found = self.coming.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(found, Exception):
            raise found
        self.head = Head(epoch=found.epoch, revision=found.revision)
        self.served.setdefault(found.channel, held(found.version))
        return found

    def mend(self, channel: Channel) -> Update:
        mended = held(self.served[channel].version)
        self.served[channel].state.assign(mended.state)
        return Update(channel, mended.version, 990.0, None, [], blessed=1, epoch=1, revision=1)

    def keep_local(self) -> None:
        self.kept += 1
        if self.keeping:
            raise self.keeping


class Replica:
    def __init__(self) -> None:
        self.versions = {Channel.CURRENT: 1}
        self.opened: dict[Channel, np.ndarray] = {}
        self.failing: Exception | None = None
        self.chunks: list[int] | None = None  # of the last flip
        self.damaged: tuple[Channel, int] | None = None

    @property
    def version(self) -> int:
        return self.versions[Channel.CURRENT]

    def flip(self, version: int, chunks: list[int] | None, channel: Channel) -> None:
        if self.failing:
            raise self.failing
        self.versions[channel], self.chunks, self.damaged = version, chunks, None

    def serves(self, channel: Channel, bits: np.ndarray) -> bool:
        return channel is Channel.CURRENT or self.opened.get(channel) is bits

    def open(self, channel: Channel, bits: np.ndarray, version: int) -> None:
        assert bits.shape == (1,)
        self.opened[channel] = bits
        self.versions[channel] = version

    def is_exact(self, channel: Channel, chunk: int) -> bool:
        return (channel, chunk) != self.damaged

    def close(self, channel: Channel) -> None:
        del self.versions[channel], self.opened[channel]


class Intake:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def offer(self, event: Event) -> bool:
        self.events.append(event)
        return True

    def accept(self, event: Event) -> Future[Verdict]:
        raise NotImplementedError(event)


class Pod:
    def __init__(self) -> None:
        self.subscriber, self.replica, self.intake = Subscriber(), Replica(), Intake()
        self.now = 1000.0
        self.tally = Tally(lambda: self.now)
        self.updater = Updater(self.subscriber, self.replica, self.intake, self.tally, pod="pod-a", clock=lambda: self.now)  # type: ignore[arg-type]

    def update(self, version: int, included: list[float] | None = None, *, channel: Channel = Channel.CURRENT) -> None:
        self.subscriber.coming.put(Update(channel, version, 990.0 + version, [0], included or [], blessed=1, epoch=1, revision=version))

    def reports(self) -> list[tuple[int, int, float, float]]:
        found = [event.pod_report for event in self.intake.events]
        assert {report.pod for report in found} <= {"pod-a"}
        return [(one.version, one.revision, one.flipped_at.ToMicroseconds() / 1e6, one.reported_at.ToMicroseconds() / 1e6) for one in found]

    def channels(self) -> list[ChannelReport]:
        """Those of the last report."""
        return list(self.intake.events[-1].pod_report.channels)


@contextmanager
def running() -> Iterator[Pod]:
    pod = Pod()
    pod.updater.start()
    try:
        yield pod
    finally:
        pod.updater.stop()


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"liveloop_{name}", labels) or 0.0


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen in 30 s")


def test_what_is_served_is_reported_at_the_start_at_every_flip_and_every_ten_seconds():
    with running() as pod:
        wait_for(lambda: pod.reports() == [(1, 1, 1000.0, 1000.0)])
        assert value("model_version_timestamp_seconds") == 990.0
        pod.now = 1001.0
        pod.update(2)
        wait_for(lambda: pod.reports()[1:] == [(2, 2, 1001.0, 1001.0)])
        pod.now = 1011.0
        wait_for(lambda: pod.reports()[2:] == [(2, 2, 1001.0, 1011.0)])
    assert value("model_version") == 2
    assert value("model_version_timestamp_seconds") == 992.0


def test_each_feedback_that_an_update_includes_is_observed_once():
    name = "feedback_to_served_seconds"
    count, seconds = value(f"{name}_count"), value(f"{name}_sum")
    with running() as pod:
        pod.update(5, [999.5, 998.0])
        pod.update(6)
        wait_for(lambda: pod.replica.version == 6)
    assert value(f"{name}_count") == count + 2
    assert value(f"{name}_sum") == pytest.approx(seconds + 2.5)


@pytest.mark.parametrize(
    ("error", "result"), [(BadSignature("not signed"), "refused"), (Unavailable("gone"), "unavailable"), (OSError("disk"), "failed")]
)
def test_weights_that_cannot_be_taken_are_counted_and_the_next_ones_are_served(error: Exception, result: str):
    before = value("weight_updates_total", result=result)
    with running() as pod:
        pod.subscriber.coming.put(error)
        wait_for(lambda: value("weight_updates_total", result=result) == before + 1)
        assert pod.replica.version == 1
        pod.update(3)
        wait_for(lambda: pod.replica.version == 3)


def test_an_update_that_could_not_be_served_is_served_later_also_while_the_store_is_away():
    name = "feedback_to_served_seconds_count"
    before, failures = value(name), value("weight_updates_total", result="failed")
    with running() as pod:
        pod.replica.failing = MemoryError()
        pod.update(2, [999.0])
        wait_for(lambda: value("weight_updates_total", result="failed") > failures)
        pod.update(3, [999.5])
        wait_for(lambda: pod.subscriber.head.revision == 3)
        assert pod.replica.version == 1
        pod.replica.failing = None
        pod.subscriber.coming.put(Unavailable("gone"))
        wait_for(lambda: pod.replica.version == 3)
        wait_for(lambda: value(name) == before + 2)
        assert pod.replica.chunks is None
        pod.update(4)
        wait_for(lambda: pod.replica.version == 4)
        assert pod.replica.chunks == [0]


def test_a_channel_is_opened_flipped_and_closed_as_heads_say_and_each_is_reported():
    with running() as pod:
        pod.update(7, channel=Channel.BLESSED)
        wait_for(lambda: pod.replica.versions == {Channel.CURRENT: 1, Channel.BLESSED: 7})
        with pod.tally.count((Channel.BLESSED, 7), 3):
            pod.now += 0.5
        with pytest.raises(RuntimeError), pod.tally.count((Channel.CURRENT, 1), 2):
            raise RuntimeError
        pod.update(8, channel=Channel.BLESSED)
        wait_for(lambda: len(pod.reports()) == 3)
        assert pod.replica.versions == {Channel.CURRENT: 1, Channel.BLESSED: 8}
        assert pod.channels() == [
            ChannelReport(channel=events_pb2.CHANNEL_CURRENT, version=1, failed=2),
            ChannelReport(channel=events_pb2.CHANNEL_BLESSED, version=7, answered=3, batches=1, seconds=0.5),
            ChannelReport(channel=events_pb2.CHANNEL_BLESSED, version=8),
        ]
        wait_for(lambda: value("model_blessed_version") == 8)
        del pod.subscriber.served[Channel.BLESSED]
        pod.update(9)
        wait_for(lambda: pod.replica.versions == {Channel.CURRENT: 9})
        wait_for(lambda: value("model_blessed_version") == 0)
        assert value("model_version") == 9


def test_a_channel_that_was_given_up_and_taken_up_again_between_two_updates_is_served_from_its_new_state():
    with running() as pod:
        pod.update(7, channel=Channel.BLESSED)
        wait_for(lambda: len(pod.reports()) == 2)
        again = held(8)
        pod.subscriber.served[Channel.BLESSED] = again
        pod.update(8, channel=Channel.BLESSED)
        wait_for(lambda: len(pod.reports()) == 3)
        assert pod.replica.opened[Channel.BLESSED] is again.state.bits


@pytest.mark.parametrize("where", ["state", "set"])
def test_memory_that_was_damaged_is_mended_while_nothing_new_comes(where: str):
    before = value("weight_updates_total", result="damaged")
    with running() as pod:
        pod.update(1)
        wait_for(lambda: pod.replica.chunks == [0])
        if where == "state":
            pod.subscriber.served[Channel.CURRENT].state.bits[0] ^= 1
        else:
            pod.replica.damaged = Channel.CURRENT, 0
        wait_for(lambda: value("weight_updates_total", result="damaged") > before)
        wait_for(lambda: pod.replica.chunks is None)


def test_the_last_good_copy_is_tried_again_after_a_failure():
    subscriber = Subscriber()
    subscriber.keeping = LiveloopError("no space left")
    keeper = Keeper(subscriber, every=0.01)  # type: ignore[arg-type]
    keeper.start()
    wait_for(lambda: subscriber.kept > 2)
    keeper.stop()
