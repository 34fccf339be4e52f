"""Records of the log in which something could not be used, kept byte for byte. Knows their table; knows no log and no broker.

The good events of such a record are taken; the record is set aside in the transaction that moves the position behind it, so that each is
set aside exactly once, whatever crashes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Protocol

from liveloop import telemetry
from liveloop.events import Record
from liveloop.events.codec import record_of
from liveloop.events.faults import Fault, fault_of
from liveloop.v1.events_pb2 import Event

MOST, MOST_BYTES = 10_000, 64 << 20
"""Kept at the most: the newest. Whoever floods the log with rubbish fills no disk."""
_OLDEST = "SELECT id, length(content) FROM dead_letters ORDER BY id"
_NAMES_THE_FORGOTTEN = "SELECT EXISTS (SELECT 1 FROM exclusions WHERE instr(?, judge) > 0)"

_log = telemetry.logger(part="dead letters")


class Takes(Protocol):
    """Where good events go."""

    def take(self, event: Event) -> float:
        """Apply one event and return its time."""
        ...


class DeadLetters:
    """Writes the table, inside a transaction of its caller's. `clock` gives Unix seconds."""

    def __init__(self, db: sqlite3.Connection, *, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    def sift(self, record: Record, taker: Takes) -> list[float]:
        """Take the good events of a record and return their times; set the record aside where something is wrong in it.

        A record that names somebody who is to be forgotten is not kept: reading the log again brings nothing of theirs back.
        """
        times, fault = _take(record, taker)
        if fault is not None and self._db.execute(_NAMES_THE_FORGOTTEN, (record.content,)).fetchone() == (1,):
            _log.warning("a record is not set aside: it names somebody forgotten", partition=record.partition, position=record.position)
        elif fault is not None:
            _log.error("a record of the event log is set aside", partition=record.partition, position=record.position, reason=fault.what)
            telemetry.counter("dead_letters_total").labels(fault.kind).inc()
            self._db.execute(
                "INSERT INTO dead_letters (partition, position, reason, content, set_aside_at) VALUES (?, ?, ?, ?, ?)",
                (record.partition, record.position, fault.what, record.content, self._clock()),
            )
            self._prune()
        return times

    def retry(self, ids: Sequence[int], taker: Takes) -> tuple[int, int]:
        """Read again, all where none is named. What was taken before is not taken twice. How many can be read whole, how many cannot."""
        wanted = list(dict.fromkeys(ids)) or [number for (number,) in self._db.execute("SELECT id FROM dead_letters ORDER BY id")]
        read = left = 0
        for number in wanted:
            found = self._db.execute("SELECT partition, position, content FROM dead_letters WHERE id = ?", (number,)).fetchone()
            if found is None:
                continue
            _, fault = _take(record_of(*found), taker)
            if fault is None:
                read += 1
                self._db.execute("DELETE FROM dead_letters WHERE id = ?", (number,))
            else:
                left += 1
                self._db.execute("UPDATE dead_letters SET reason = ? WHERE id = ?", (fault.what, number))
        return read, left

    def _prune(self) -> None:
        count, size = self._db.execute("SELECT count(*), coalesce(sum(length(content)), 0) FROM dead_letters").fetchone()
        doomed = []
        for number, length in self._db.execute(_OLDEST):
            if count <= MOST and size <= MOST_BYTES:
                break
            doomed.append((number,))
            count, size = count - 1, size - length
        self._db.executemany("DELETE FROM dead_letters WHERE id = ?", doomed)
        telemetry.counter("dead_letters_dropped_total").inc(len(doomed))


def _take(record: Record, taker: Takes) -> tuple[list[float], Fault | None]:
    """The times of the good events, and the first thing that is wrong."""
    times, worst, bad = [], record.fault, 0
    for event in record.events:
        fault = fault_of(event)
        if fault is None:
            times.append(taker.take(event))
        else:
            worst, bad = worst or fault, bad + 1
    if bad and worst is not None:
        worst = Fault(worst.kind, f"{bad} of {len(record.events)} events cannot be used; the first: {worst.what}")
    return times, worst
