"""KafkaLog: the event log on Apache Kafka, positions kept by the reader. Knows kafka-python, not how to get in, or who relays or learns.

Nothing connects before it is needed. After any trouble the connection is dropped and the next call makes a new one, so that a broker
that was away, at the start or in between, costs the caller Unavailable until it is back, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from liveloop.errors import LiveloopError, Unavailable
from liveloop.events import Gap, LogTruncated, Page
from liveloop.events.codec import record_of, rounds
from liveloop.events.kafka_client import Access, Connections, reason
from liveloop.events.kafka_topic import MESSAGE_BYTES, Topic
from liveloop.v1.events_pb2 import Event

_REQUEST_MS = 6_000
_DELIVERY_MS = 10_000
"""Longer than one request, so that a retry fits in; after this an append gives up, and whoever relays tries again."""
_FETCH_WAIT_MS = 100


class KafkaLog:
    """An EventLog on one topic. One thread may append while another reads."""

    def __init__(self, access: Access, topic: Topic) -> None:
        """Use `topic` by `access`; its partitions are how many to create it with where it is missing."""
        self._access = access
        self._wanted = topic
        self._topic = topic.name
        self._partitions = topic.partitions
        self._found = False
        self._producing = threading.Lock()
        self._consuming = threading.Lock()
        self._connections: dict[str, Connections] = {}  # by what they are for
        self._producer: KafkaProducer | None = None
        self._consumer: KafkaConsumer | None = None
        self._at: dict[int, int] = {}  # partition: the consumer's position
        self._oldest: dict[int, int] = {}  # partition: where its oldest record was when the consumer was made

    @property
    def partitions(self) -> range:
        """Those of the topic; before the first contact, those it would be created with."""
        return range(self._partitions)

    def append(self, events: Sequence[Event], unreadable: Sequence[bytes] = ()) -> None:
        """See EventLog. Sends record after record within a partition, so that a failure never changes their order."""
        with self._producing, self._trouble(self._drop_producer, "write to"):
            if self._producer is None:
                self._find_topic("write to")
                self._producer = self._connect("write to", KafkaProducer, **_PRODUCER)
            for records in rounds(events, self._partitions):
                sent = [self._producer.send(self._topic, record, partition=partition) for partition, record in records.items()]
                _wait_for(sent)
            _wait_for([self._producer.send(self._topic, record, partition=0) for record in unreadable])  # of no prediction that is known

    def read(self, positions: Mapping[int, int], *, limit: int, timeout: float) -> Page:
        """See EventLog. A record that cannot be decoded comes as one without events, with its bytes and what is wrong."""
        with self._consuming, self._trouble(self._drop_consumer, "read from"):
            if self._consumer is None:
                self._find_topic("read from")
                self._consumer = self._connect("read from", KafkaConsumer, **_CONSUMER)
                self._consumer.assign([self._partition(number) for number in self.partitions])
            self._seek(self._consumer, positions)
            try:
                found = self._consumer.poll(timeout_ms=int(timeout * 1000), max_records=limit)
            except (OffsetOutOfRangeError, LogTruncationError) as error:
                raise self._truncated(self._consumer) from error
            records = [
                record_of(tp.partition, message.offset, message.value or b"") for tp, messages in found.items() for message in messages
            ]
            self._at.update((record.partition, record.position + 1) for record in records)
            return Page(records, at_end=self._at_end(self._consumer, found=bool(records)))

    def release(self, positions: Mapping[int, int]) -> None:
        """Nothing: the topic's retention decides."""

    def close(self) -> None:
        """Close what is open. A call that hangs on a broker is left alone: it ends by itself, at the latest with the process."""
        if producer := self._producer:
            with suppress(KafkaError):
                producer.close(timeout=0)  # whatever comes of it, kafka-python's exit handler, which would wait, is gone
        for lock, drop in ((self._producing, self._drop_producer), (self._consuming, self._drop_consumer)):
            if lock.acquire(timeout=1):
                drop()
                lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _seek(self, consumer: KafkaConsumer, positions: Mapping[int, int]) -> None:
        unknown = [self._partition(number) for number in self.partitions if number not in positions and number not in self._oldest]
        if unknown:
            self._oldest.update((tp.partition, offset) for tp, offset in consumer.beginning_offsets(unknown, _REQUEST_MS).items())
        for number in self.partitions:
            wanted = positions[number] if number in positions else self._oldest[number]
            if self._at.get(number) != wanted:
                consumer.seek(self._partition(number), wanted)
                self._at[number] = wanted

    def _at_end(self, consumer: KafkaConsumer, *, found: bool) -> frozenset[int]:
        """Partitions of which nothing is left: asked of the broker, save for those of which the last fetch shows that there is more.

        Where nothing was found all are asked for, because a consumer is silent about a broker that is away.
        """
        partitions = map(self._partition, self.partitions)
        maybe = [tp for tp in partitions if not found or (consumer.highwater(tp) or 0) <= self._at[tp.partition]]
        ends = consumer.end_offsets(maybe, _REQUEST_MS) if maybe else {}
        return frozenset(tp.partition for tp, end in ends.items() if self._at[tp.partition] >= end)

    def _truncated(self, consumer: KafkaConsumer) -> LiveloopError:
        """Where the positions asked for are not in the topic."""
        partitions = [self._partition(number) for number in self.partitions]
        oldest, ends = (find(partitions, _REQUEST_MS) for find in (consumer.beginning_offsets, consumer.end_offsets))
        at = {tp: self._at[tp.partition] for tp in partitions}
        gaps = [Gap(tp.partition, at[tp], oldest[tp]) for tp in partitions if not oldest[tp] <= at[tp] <= ends[tp]]
        self._drop_consumer()
        return LogTruncated(gaps, f"the topic {self._topic}") if gaps else Unavailable(f"the topic {self._topic} is changing")

    def _find_topic(self, purpose: str) -> None:
        """Learn how many partitions the topic has; create it where it is missing."""
        if self._found:
            return
        admin = self._connect(purpose, KafkaAdminClient)
        try:
            self._partitions = self._wanted.find_or_create(admin)
        finally:
            admin.close()
        self._found = True

    def _connect(self, purpose: str, kind: Callable[..., Any], **config: Any) -> Any:
        connections = self._connections[purpose] = Connections(self._access)
        return connections.client(kind, **config)

    @contextmanager
    def _trouble(self, drop: Callable[[], None], purpose: str) -> Iterator[None]:
        """Raise what a failure means: its own cause, or, where kafka-python tells of a time-out alone, that of the connection."""
        try:
            yield
        except KafkaError as error:
            connections = self._connections.pop(purpose, None)
            drop()
            cause = (connections and error.retriable and connections.cause) or error
            meaning = reason(cause, self._access, doing=f"{purpose} the topic {self._topic}")
            raise Unavailable(f"Kafka at {self._access} {meaning}") from error

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer:
            with suppress(KafkaError):
                producer.close(timeout=1)

    def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._at.clear()
        self._oldest.clear()
        if consumer:
            with suppress(KafkaError):
                consumer.close(autocommit=False, timeout_ms=1000)

    def _partition(self, number: int) -> TopicPartition:
        return TopicPartition(self._topic, number)


def _wait_for(sent: Sequence[Any]) -> None:
    """Wait for every acknowledgement, so that nothing is in flight any more when the first failure is raised."""
    failure: KafkaError | None = None
    for acknowledgement in sent:
        try:
            acknowledgement.get(timeout=2 * _DELIVERY_MS / 1000)
        except KafkaError as error:
            failure = failure or error
    if failure:
        raise failure


_PRODUCER: dict[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "delivery_timeout_ms": _DELIVERY_MS,
    "max_block_ms": _REQUEST_MS,
    "max_request_size": MESSAGE_BYTES,
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}
_CONSUMER: dict[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "fetch_max_wait_ms": _FETCH_WAIT_MS,
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}
