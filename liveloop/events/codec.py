"""What an event is to a log: a partition, a content digest, bytes in a record. Knows no log and no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from blake3 import blake3
from google.protobuf.message import DecodeError

from liveloop.events import Record
from liveloop.events.faults import Fault
from liveloop.rows import EXAMPLE
from liveloop.v1.events_pb2 import Event, EventBatch, ExampleEvent, FeedbackEvent

FORMAT = 1
"""EventBatch.format as written here."""

RECORD_BYTES = 256 * 1024
"""One record holds at most this, unless a single event is larger: few records a second, and still far below a broker's limit."""


def encode(events: Iterable[Event]) -> bytes:
    """The bytes of one record."""
    return EventBatch(format=FORMAT, events=events).SerializeToString()


def record_of(partition: int, position: int, content: bytes) -> Record:
    """The record whose bytes are `content`; without events, and with what is wrong, when they are no EventBatch of a known format.

    So it is for the reader to set it aside: one bad record must not stop the loop.
    """
    try:
        batch = EventBatch.FromString(content)
    except DecodeError as error:
        return Record(partition, position, (), content, Fault("undecodable", f"it is no EventBatch: {error}"))
    if batch.format != FORMAT:
        return Record(partition, position, (), content, Fault("format", f"it has format {batch.format}; this liveloop reads {FORMAT}"))
    return Record(partition, position, batch.events, content)


def partition_of(key: str, partitions: int) -> int:
    """The partition of a prediction id, or of a pod's name: first 4 bytes of its blake3, big endian, modulo `partitions`."""
    return int.from_bytes(blake3(key.encode()).digest(4), "big") % partitions


def key_of(event: Event) -> str:
    """What decides an event's partition: its prediction id, its pod's name, or the name of its labelled row."""
    match event.WhichOneof("event"):
        case "prediction":
            return event.prediction.prediction_id
        case "feedback":
            return event.feedback.feedback.prediction_id
        case "example":
            return EXAMPLE + event.example.example_id
        case _:
            return event.pod_report.pod


def identity_of(event: Event) -> tuple[str, str] | None:
    """Under which id an event is stored once: within its prediction, or as a labelled row; None for what comes once by itself."""
    match event.WhichOneof("event"):
        case "feedback":
            return event.feedback.feedback.prediction_id, event.feedback.feedback.feedback_id
        case "example":
            return EXAMPLE + event.example.example_id, event.example.example_id
        case _:
            return None


def content_digest(event: Event) -> bytes:
    """What must be equal for a second event of the same id to be a duplicate: everything said, and who said it, but not when."""
    if event.WhichOneof("event") == "example":
        example = event.example
        row = ExampleEvent(input=example.input, label=example.label, judge=example.judge, source=example.source)
        return blake3(row.SerializeToString(deterministic=True)).digest(16)
    content = FeedbackEvent(feedback=event.feedback.feedback, judge=event.feedback.judge)
    content.feedback.ClearField("created_at")
    return blake3(content.SerializeToString(deterministic=True)).digest(16)


def rounds(events: Iterable[Event], partitions: int) -> Iterator[dict[int, bytes]]:
    """Regroup events into records of one partition each, in order: round k holds the k-th record of every partition that has one.

    Waiting for one round's acknowledgements before sending the next keeps the order within a partition, whatever fails.
    """
    records: dict[int, list[bytes]] = {}
    by_partition: dict[int, list[Event]] = {}
    for event in events:
        by_partition.setdefault(partition_of(key_of(event), partitions), []).append(event)
    for partition, own in by_partition.items():
        records[partition] = [encode(group) for group in _groups(own)]
    for number in range(max(map(len, records.values()), default=0)):
        yield {partition: own[number] for partition, own in records.items() if number < len(own)}


def _groups(events: Sequence[Event]) -> Iterator[list[Event]]:
    group: list[Event] = []
    size = 0
    for event in events:
        own = event.ByteSize() + 8  # tag and length in the batch
        if group and size + own > RECORD_BYTES:
            yield group
            group, size = [], 0
        group.append(event)
        size += own
    if group:
        yield group
