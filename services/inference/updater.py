"""Keeps what is served up to date, and tells the log what is served. Knows the subscriber, the replica and the intake; knows no gRPC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from liveloop import crash, tracing
from liveloop.errors import LiveloopError, Unavailable, WeightsRefused
from liveloop.telemetry import announce, counter, gauge, histogram, logger
from liveloop.times import timestamp
from liveloop.v1 import events_pb2
from liveloop.weights.channels import Channel
from liveloop.weights.subscriber import Subscriber, Update
from services.inference.intake import Intake
from services.inference.scrub import Scrub
from services.inference.tally import Done, Tally

if TYPE_CHECKING:
    from services.inference.replica import Replica

_REPORT_EVERY = 10.0
_LISTEN = 0.5
"""Seconds one wait for a head takes at most: how late a stop or a report may be."""
_REST = 0.5
"""Seconds before a store that cannot be reached is asked again."""


class Updater:
    """A thread: wait for new weights, flip to them, report."""

    def __init__(
        self, subscriber: Subscriber, replica: Replica, intake: Intake, tally: Tally, *, pod: str, clock: Callable[[], float] = time.time
    ) -> None:
        """`pod` is this process's name in reports, which take what `tally` counted; `clock` is Unix seconds."""
        self._subscriber = subscriber
        self._replica = replica
        self._intake = intake
        self._tally = tally
        self._pod = pod
        self._clock = clock
        self._flipped_at = clock()
        self._next_report = 0.0
        self._told = ""  # the last failure
        self._scrub = Scrub(subscriber, replica)
        self._unserved: dict[Channel, Update] = {}  # what the states hold and the replica does not serve yet
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)

    def start(self) -> None:
        """Begin; the version that is served already is reported first."""
        announce("weight_updates_total", "weight_update_duration_seconds", "feedback_to_served_seconds")
        self._show(self._replica.version, self._subscriber.created_at)
        self._show_blessed()
        self._thread.start()

    def stop(self) -> None:
        """Finish the update in progress and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._clock() >= self._next_report:
                self._report()
            try:
                self._follow()
                self._told = ""
            except WeightsRefused as error:  # the subscriber rests by itself before it looks again
                self._failed("refused", error)
            except Unavailable as error:
                self._failed("unavailable", error)
                self._stopping.wait(_REST)
            except Exception as error:  # noqa: BLE001  the top of the loop: the version that is served goes on being served
                self._failed("failed", error)
                self._stopping.wait(_REST)

    def _follow(self) -> None:
        """Serve what comes, and what could not be served before: the subscriber does not tell of it again."""
        try:
            self._note(self._subscriber.next(_LISTEN))
        finally:
            for channel in sorted(self._unserved.keys() & self._subscriber.served.keys()):
                self._apply(self._unserved[channel])
        for channel in self._replica.versions.keys() - self._subscriber.served.keys():
            self._replica.close(channel)
            self._unserved.pop(channel, None)
            self._show_blessed()

        if not self._unserved:  # what is not served yet differs from its state
            self._note(self._scrub.step())

    def _note(self, update: Update | None) -> None:
        """Have an update served, together with an earlier one of its channel that is not yet."""
        if update is not None:
            earlier = self._unserved.get(update.channel)
            both = replace(update, chunks=None, included=earlier.included + update.included) if earlier else update
            self._unserved[update.channel] = both

    def _apply(self, update: Update) -> None:
        with tracing.span("flip", parent=update.traceparent, liveloop__version=update.version, liveloop__pod=self._pod):
            self._flip(update)

    def _flip(self, update: Update) -> None:
        started = time.perf_counter()
        bits = self._subscriber.served[update.channel].state.bits
        if self._replica.serves(update.channel, bits):
            self._replica.flip(update.version, update.chunks, update.channel)
        else:  # a new channel, or one that was given up and taken up again since the last update
            self._replica.open(update.channel, bits, update.version)
        crash.point("after-flip")
        del self._unserved[update.channel]
        histogram("weight_update_duration_seconds").labels("flip").observe(time.perf_counter() - started)
        counter("weight_updates_total").labels("applied").inc()
        if update.channel is Channel.CURRENT:
            self._flipped_at = self._clock()
            self._show(update.version, update.created_at)
        self._show_blessed()
        self._report()
        for accepted_at in update.included:
            histogram("feedback_to_served_seconds").observe(self._flipped_at - accepted_at)

    @staticmethod
    def _show(version: int, created_at: float) -> None:
        gauge("model_version").set(version)
        gauge("model_version_timestamp_seconds").set(created_at)

    def _show_blessed(self) -> None:
        gauge("model_blessed_version").set(self._replica.versions.get(Channel.BLESSED, 0))

    def _report(self) -> None:
        now, head = self._clock(), self._subscriber.head
        report = events_pb2.PodReport(
            pod=self._pod,
            version=self._replica.version,
            epoch=head.epoch,
            revision=head.revision,
            flipped_at=timestamp(self._flipped_at),
            reported_at=timestamp(now),
            channels=self._channels(),
        )
        self._intake.offer(events_pb2.Event(pod_report=report))
        self._next_report = now + _REPORT_EVERY

    def _channels(self) -> list[events_pb2.ChannelReport]:
        """One report for each version that is served, or was since the last report."""
        done = dict.fromkeys(self._replica.versions.items(), Done()) | dict(self._tally.take())
        return [
            events_pb2.ChannelReport(
                channel=events_pb2.Channel.ValueType(channel),
                version=version,
                answered=work.answered,
                failed=work.failed,
                batches=work.batches,
                seconds=work.seconds,
            )
            for (channel, version), work in sorted(done.items())
        ]

    def _failed(self, result: str, error: Exception) -> None:
        counter("weight_updates_total").labels(result).inc()
        reason = error.reason if isinstance(error, LiveloopError) else repr(error)
        if reason != self._told:  # the log says it once, the counter every time
            logger().warning("new weights cannot be taken; the old version goes on serving", result=result, reason=reason)
        self._told = reason


class Keeper:
    """A thread: copies the store into this pod's last good copy now and then, so that it can start while the store is away."""

    def __init__(self, subscriber: Subscriber, *, every: float = 30.0) -> None:
        """Copy `every` so many seconds."""
        self._subscriber = subscriber
        self._every = every
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin, with a copy at once."""
        self._thread.start()

    def stop(self) -> None:
        """End; a copy in progress is left to the end of the process, which harms nothing: a head is set last."""
        self._stopping.set()

    def _run(self) -> None:
        while True:
            try:
                self._subscriber.keep_local()
            except Exception as error:  # noqa: BLE001  the top of the loop: the next try may find the store or the disk again
                logger().warning("the last good copy of the weights could not be brought up to date", reason=str(error))
            if self._stopping.wait(self._every):
                return
