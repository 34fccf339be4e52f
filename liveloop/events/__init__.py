"""The event log: the port that every adapter keeps, and the choice of one by URL. Knows no adapter's insides.

faults.py    what makes an event or a record unusable
codec.py     an event's partition and content digest, the bytes of a record
sqlite.py    SqliteLog: the embedded log, and the outbox of the distributed one
database.py  one SQLite file that processes share; locks.py: locks that die with their holder
intake.py    Intake: many callers, one writer thread, one fsync per group
kafka.py     KafkaLog: Apache Kafka; kafka_client.py: how to get in, what a failure means; kafka_topic.py: its topic
relay.py     Relay: moves an outbox to Kafka; outbox.py: which outbox belongs to whom; salvage.py: a damaged one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self
from urllib.parse import SplitResult, urlsplit

from liveloop.errors import LiveloopError, Misconfigured
from liveloop.events.faults import Fault
from liveloop.settings import Settings, host_port
from liveloop.v1.events_pb2 import Event

if TYPE_CHECKING:
    from liveloop.events.intake import Intake

SEGMENT = 1 / 7
"""A segment of a Kafka topic, as a share of its retention: records go a segment at a time, so the oldest stays that much longer.

Kafka's own default would double the retention.
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log: the events of one partition from one group commit."""

    partition: int
    position: int  # the next record of this partition is at position + 1 or later
    events: Sequence[Event]
    content: bytes = b""  # its bytes, for whom an event in it is unusable
    fault: Fault | None = None  # why it could not be decoded: it has no events then


class Gap(NamedTuple):
    """What is missing in one partition between what was read and what is still there."""

    partition: int
    start: int  # the position that was to be read next
    end: int  # the oldest that is still there


class LogTruncated(LiveloopError):
    """Records were removed before they were read, or this is another log: reading on would pass over them in silence."""

    def __init__(self, gaps: Sequence[Gap], log: str) -> None:
        missing = ", ".join(f"{gap.start} of partition {gap.partition}, where {gap.end} is the oldest" for gap in gaps)
        super().__init__(f"{log} does not have position {missing}: removed unread, or another log?")
        self.gaps = tuple(gaps)


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

    def append(self, events: Sequence[Event], unreadable: Sequence[bytes] = ()) -> None:
        """Return when the events are durable, and beside them, as they are, records that could not be decoded where they came from.

        Raises Overloaded when the log is full, Unavailable when it cannot be reached.
        """
        ...

    def read(self, positions: Mapping[int, int], *, limit: int, timeout: float) -> Page:
        """Read at most about `limit` records from `positions` on, waiting up to `timeout` seconds for the first one.

        `positions` maps a partition to the next position to read; a partition that is absent is read from its oldest record.
        Raises Unavailable when the log cannot be reached, LogTruncated when a position is not there.
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


def open_log(settings: Settings) -> EventLog:
    """The log that `settings.events` names, to read from. Raises Misconfigured; does not wait for a broker."""
    url = urlsplit(settings.events)
    if url.scheme == "sqlite" and not url.netloc and len(url.path) > 1:
        from liveloop.events.sqlite import SqliteLog

        return SqliteLog(Path(url.path), capacity=settings.log_capacity, window=settings.feedback_window)
    if url.scheme in ("kafka", "kafkas"):
        return _open_kafka(settings, url)
    raise Misconfigured("the events URL is none of sqlite:///FILE, kafka://HOST:PORT,HOST:PORT/TOPIC and kafkas://, which is with TLS")


def _open_kafka(settings: Settings, url: SplitResult) -> EventLog:
    try:
        from liveloop.events.kafka import KafkaLog  # an extra, absent where the embedded log is enough
        from liveloop.events.kafka_client import Access
        from liveloop.events.kafka_topic import Topic
    except ModuleNotFoundError as error:
        raise Misconfigured("a kafka:// event log needs kafka-python: install liveloop[kafka]") from error
    name = url.path.strip("/")
    if "@" in url.netloc:
        raise Misconfigured("the events URL names no user: set kafka_username and kafka_password_file")
    if not name or "/" in name or url.query or url.fragment:
        raise Misconfigured("the events URL does not end in the name of one topic: kafka://HOST:PORT,HOST:PORT/TOPIC")
    servers = tuple(url.netloc.split(","))
    for server in servers:
        host_port(server)
    access = Access(
        servers,
        tls=url.scheme == "kafkas",
        username=settings.kafka_username,
        password_file=settings.kafka_password_file,
        mechanism=settings.kafka_sasl_mechanism,
        ca_file=settings.kafka_ca_file,
        cert_file=settings.kafka_cert_file,
        key_file=settings.kafka_key_file,
    )
    access.check()
    return KafkaLog(access, Topic(name, settings.topic_partitions, settings.retention, settings.feedback_window))


def open_intake(settings: Settings) -> Intake:
    """Where an inference process puts its events: the embedded log, or an outbox from which a relay moves them to Kafka.

    Raises Misconfigured; does not wait for a broker.
    """
    from liveloop.events.intake import Intake
    from liveloop.events.outbox import claim, orphans
    from liveloop.events.relay import Relay
    from liveloop.events.sqlite import SqliteLog

    log = open_log(settings)
    if isinstance(log, SqliteLog):
        return Intake(log)
    folder = settings.data / "outbox"
    capacity, window = settings.log_capacity, settings.feedback_window
    outbox = claim(folder, capacity=capacity, window=window)
    relay = Relay(outbox, log, orphans=lambda: orphans(folder, capacity=capacity, window=window))
    return Intake(outbox.log, delivery=relay, wait_for_delivery=settings.ack == "broker")
