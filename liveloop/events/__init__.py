"""The event log: the port that every adapter keeps, and the choice of one by URL. Knows no adapter's insides.

    sqlite.py   SqliteLog: the embedded log, and the outbox of the distributed one
    intake.py   Intake: many callers, one writer thread, one fsync per group
    kafka.py    KafkaLog: Apache Kafka
    relay.py    Relay: moves an outbox to Kafka
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from liveloop.v1.events_pb2 import Event


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log: the events of one partition from one group commit."""

    partition: int
    position: int  # the next record of this partition is at position + 1 or later
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Page:
    """What one read found."""

    records: Sequence[Record]  # in order within each partition
    at_end: frozenset[int]  # partitions read to their end as of this read


class EventLog(Protocol):
    """Durable, ordered within a partition, at least once. All events of one prediction are in one partition."""

    @property
    def partitions(self) -> range:
        """The partitions, numbered from 0; fixed for the life of the log."""
        ...

    def append(self, events: Sequence[Event]) -> None:
        """Return when the events are durable. Raises Overloaded when the log is full, Unavailable when it cannot be reached."""
        ...

    def read(self, positions: Mapping[int, int], *, limit: int, timeout: float) -> Page:
        """Read at most about `limit` records from `positions` on, waiting up to `timeout` seconds for the first one.

        `positions` maps a partition to the next position to read; a partition that is absent is read from its oldest record.
        Raises Unavailable when the log cannot be reached, LiveloopError when a position is no longer there.
        """
        ...

    def release(self, positions: Mapping[int, int]) -> None:
        """Hint that everything before `positions` has been read for good, so that it may go once it is older than the window."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
