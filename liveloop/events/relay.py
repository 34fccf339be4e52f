"""Relay: moves what an outbox holds to the log behind it, for as long as it takes. Knows both as logs, not what they are made of."""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from liveloop import crash
from liveloop.errors import LiveloopError, Unavailable
from liveloop.events import EventLog
from liveloop.events.outbox import Outbox
from liveloop.telemetry import logger

_ROWS = 256
"""Rows moved at once; the log behind regroups their events by partition."""
_ROWS_BESIDE, _REST, _BUSY = 4, 4.0, 0.25
"""While answers are computed in this process, and for so many seconds after: rows moved at once, and how long a backlog rests after them,
in times of the processor time that they took. The interpreter runs one thread at a time: what the relay takes, answers wait for."""
_LOOK = 0.2
"""Seconds to wait for a row before looking whether to stop."""
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts while the log behind is away; the last one again and again."""
_ORPHAN_SECONDS = 30.0
_GRACE = 2.0
"""Seconds that closing waits for an attempt in flight: a broker that hangs must not hold up the end of a process."""


class Relay:
    """Owns its outbox and the log behind it. A row leaves the outbox once the log behind has acknowledged its events.

    Also moves what other processes left behind in theirs, once they are gone.
    """

    def __init__(self, outbox: Outbox, log: EventLog, *, orphans: Callable[[], Iterable[Outbox]]) -> None:
        self._outbox = outbox
        self._log = log
        self._orphans = orphans
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._delivered = outbox.log.released - 1
        self._waiting: list[tuple[int, int, Future[None]]] = []
        self._busy_until = 0.0
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def give_way(self) -> None:
        """An answer is being given in this process: a backlog is not worth its wait."""
        self._busy_until = time.monotonic() + _BUSY

    def delivered(self, position: int) -> Future[None]:
        """Resolves once everything at or before `position` of the outbox has been delivered; Unavailable when the relay closes first."""
        result: Future[None] = Future()
        with self._changed:
            if position <= self._delivered:
                result.set_result(None)
            elif self._stopping.is_set():
                result.set_exception(Unavailable("stored here, and not yet delivered: this process is shutting down"))
            else:
                insort(self._waiting, (position, id(result), result))
        return result

    def flush(self, timeout: float) -> None:
        """Wait until the outbox is empty or the time is over."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._outbox.log.waiting and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, _LOOK))

    def close(self) -> None:
        """Stop. The outbox and the log behind are let go at once, or as soon as an attempt in flight has ended."""
        self._stopping.set()
        self._thread.join(_GRACE)
        with self._changed:
            for _, _, result in self._waiting:
                result.set_exception(Unavailable("stored here, and not yet delivered: this process is shutting down"))
            self._waiting.clear()
        self._log.close()

    def _run(self) -> None:
        orphans_due = 0.0
        failures = 0
        while not self._stopping.is_set():
            try:
                self._move(self._outbox, _LOOK)
                if time.monotonic() >= orphans_due:
                    self._adopt()
                    orphans_due = time.monotonic() + _ORPHAN_SECONDS
                failures = 0
            except Exception as error:  # noqa: BLE001  the top of the loop: what is in the outbox waits, whatever it was
                if failures == 0 or not isinstance(error, LiveloopError):
                    logger().warning("the relay waits", reason=str(error), error=type(error).__name__)
                self._stopping.wait(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1
        self._log.close()
        self._outbox.close()

    def _move(self, outbox: Outbox, wait: float) -> bool:
        """Move some rows, waiting up to `wait` seconds for the first; False when there were none."""
        began, is_beside = time.thread_time(), time.monotonic() < self._busy_until
        page = outbox.log.read({}, limit=_ROWS_BESIDE if is_beside else _ROWS, timeout=wait)
        if not page.records:
            return False
        unreadable = [record.content for record in page.records if record.fault]  # the learner sets them aside, byte for byte
        self._log.append([event for record in page.records for event in record.events], unreadable)
        crash.point("after-relay")
        end = page.records[-1].position
        outbox.log.release({0: end + 1})
        if outbox is self._outbox:
            self._announce(end)
        if is_beside and not page.at_end:
            self._stopping.wait(_REST * (time.thread_time() - began))
        return True

    def _adopt(self) -> None:
        for outbox in self._orphans():
            while not self._stopping.is_set() and self._move(outbox, 0.0):
                self._move(self._outbox, 0.0)

    def _announce(self, end: int) -> None:
        with self._changed:
            self._delivered = end
            ready = [entry for entry in self._waiting if entry[0] <= end]
            self._waiting = self._waiting[len(ready) :]
            self._changed.notify_all()
        for _, _, result in ready:
            result.set_result(None)
