"""Plain kafka-python beside which the event path is measured: one record per event. Knows kafka-python, not liveloop's log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from liveloop.errors import Unavailable

_PATIENCE = 30.0
"""Seconds without a record after which a consumer's topic counts as short of them."""


def produce(server: str, topic: str, records: Sequence[bytes], partitions: int) -> float:
    """Seconds from the first send until the broker has acknowledged the last record."""
    with closing(KafkaProducer(bootstrap_servers=server, acks="all", enable_idempotence=True)) as producer:
        began = time.perf_counter()
        sent = [producer.send(topic, record, partition=number % partitions) for number, record in enumerate(records)]
        producer.flush()
        for acknowledgement in sent:
            acknowledgement.get(timeout=_PATIENCE)
        return time.perf_counter() - began


def consume(server: str, topic: str, count: int, partitions: int) -> float:
    """Seconds from the first poll until `count` records were read. Raises Unavailable when the topic does not hold so many."""
    with closing(KafkaConsumer(bootstrap_servers=server, group_id=None, enable_auto_commit=False)) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        consumer.seek_to_beginning()
        began = last = time.perf_counter()
        while count > 0:
            if found := consumer.poll(timeout_ms=1000):
                last = time.perf_counter()
                count -= sum(map(len, found.values()))
            elif time.perf_counter() - last > _PATIENCE:
                raise Unavailable(f"the topic {topic} lacks {count} records of those that were written")
        return time.perf_counter() - began


def remove(server: str, topics: Sequence[str]) -> None:
    """Delete what was measured with."""
    with closing(KafkaAdminClient(bootstrap_servers=server)) as admin:
        admin.delete_topics(list(topics))
