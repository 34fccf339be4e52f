"""Intake: many callers, one writer thread, one fsync for all that came meanwhile. Knows the log it writes, not what callers answer."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Protocol

from liveloop import crash
from liveloop.errors import Overloaded, Unavailable
from liveloop.events.sqlite import SqliteLog, Verdict
from liveloop.telemetry import announce, counter, gauge, logger
from liveloop.v1.events_pb2 import Event

_SHED_FROM = 0.9
"""Share of the capacity from which only feedback is stored."""
_GROUP_EVENTS = 512
_GROUP_BYTES = 1 << 20
"""One transaction holds at most this, so that other processes get their turn."""
_QUEUE = 8192
"""Events that may wait for the disk; then predictions are shed and feedback is refused."""
_LOOK = 0.5
"""Seconds between two looks at a log to which nothing is written: others may have filled or emptied it."""

Pending = tuple[Event, "Future[Verdict] | None"]


class Delivery(Protocol):
    """Who carries the outbox on, where there is one."""

    def give_way(self) -> None:
        """An answer is being given in this process."""
        ...

    def delivered(self, position: int) -> Future[None]:
        """Resolves once everything at or before `position` of the outbox has been delivered."""
        ...

    def flush(self, timeout: float) -> None:
        """Go on delivering until the outbox is empty or the time is over."""
        ...

    def close(self) -> None:
        """Stop, close the outbox, and raise Unavailable in those who still wait."""
        ...


class Intake:
    """Takes events in. Predictions and reports never wait; a feedback's future resolves once it is durable."""

    def __init__(self, log: SqliteLog, *, delivery: Delivery | None = None, wait_for_delivery: bool = False) -> None:
        """Own `log`, or `delivery`, which then owns `log`. With `wait_for_delivery` a feedback's future waits until it was delivered."""
        self._log = log
        self._delivery = delivery
        self._wait_for_delivery = wait_for_delivery
        self._queue: deque[Pending] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._fill = log.fill
        gauge("outbox_capacity_bytes").set(log.capacity)
        announce("outbox_shed_total")
        self._writer = threading.Thread(target=self._run, name="intake", daemon=True)
        self._writer.start()

    def offer(self, event: Event) -> bool:
        """Queue a prediction or a report, without waiting. False when it is shed: the log is nearly full, or the disk is behind."""
        with self._changed:
            if self._closing or self.full() or len(self._queue) >= _QUEUE:
                counter("outbox_shed_total").inc()
                return False
            if self._delivery is not None:
                self._delivery.give_way()
            self._put(event, None)
            return True

    def accept(self, event: Event) -> Future[Verdict]:
        """Queue a feedback; the future resolves once it is durable, or fails (Overloaded, Unavailable). Raises Overloaded when full."""
        result: Future[Verdict] = Future()
        result.set_running_or_notify_cancel()  # a caller that gives up cannot take the event back
        with self._changed:
            if self._closing:
                raise Unavailable("this process is shutting down")
            if self._fill >= 1 or len(self._queue) >= _QUEUE:
                raise Overloaded("the event log is full")
            self._put(event, result)
        return result

    def full(self) -> bool:
        """The log is nearly full: predictions are not stored and get no token."""
        return self._fill >= _SHED_FROM

    def close(self, timeout: float) -> int:
        """Take no more, store what is queued, deliver for up to `timeout` seconds. Returns how many events stay behind in the outbox."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join()
        if self._delivery is None:
            self._log.close()
            return 0
        self._delivery.flush(max(0.0, deadline - time.monotonic()))
        left = self._log.waiting
        self._delivery.close()
        return left

    def _put(self, event: Event, result: Future[Verdict] | None) -> None:
        self._queue.append((event, result))
        self._changed.notify()

    def _run(self) -> None:
        group: list[Pending] = []
        while not (self._closing and not self._queue):
            try:
                group = self._take()
                if group:
                    self._store(group)
                    group = []
                self._look()
            except Exception as error:  # noqa: BLE001  the top of the loop: whatever it was, callers must hear of it
                logger().error("events could not be stored", events=len(group), reason=str(error), error=type(error).__name__)
                for _, result in group:
                    _fail(result, error)

    def _take(self) -> list[Pending]:
        group: list[Pending] = []
        size = 0
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing, timeout=_LOOK)
            while self._queue and len(group) < _GROUP_EVENTS and size < _GROUP_BYTES:
                group.append(self._queue.popleft())
                size += group[-1][0].ByteSize()
        return group

    def _store(self, group: list[Pending]) -> None:
        written = self._log.store([event for event, _ in group])
        crash.point("after-append")
        for (_, result), verdict in zip(group, written.verdicts, strict=True):
            if result is not None:
                self._answer(result, verdict, written.end)
        crash.point("after-ack")

    def _answer(self, result: Future[Verdict], verdict: Verdict, end: int) -> None:
        if self._delivery is None or not self._wait_for_delivery:
            result.set_result(verdict)
            return

        def pass_on(delivered: Future[None]) -> None:
            if error := delivered.exception():
                result.set_exception(error)
            else:
                result.set_result(verdict)

        self._delivery.delivered(end).add_done_callback(pass_on)

    def _look(self) -> None:
        used = self._log.used_bytes
        self._fill = used / self._log.capacity
        gauge("outbox_bytes").set(used)
        gauge("outbox_oldest_event_timestamp_seconds").set(self._log.oldest)


def _fail(result: Future[Verdict] | None, error: BaseException) -> None:
    if result is None:
        counter("outbox_shed_total").inc()
    elif not result.done():
        result.set_exception(error)
