"""Regrouping events into records."""

from __future__ import annotations

from event_samples import feedback, prediction
from hypothesis import given
from hypothesis import strategies as st

from liveloop.events.codec import RECORD_BYTES, key_of, partition_of, record_of, rounds
from liveloop.v1.events_pb2 import Event, ExampleEvent, PodReport

events = st.builds(lambda n, size: prediction(n, text="x" * size), st.integers(0, 20), st.sampled_from([0, 10, 90_000, 300_000]))


@given(st.lists(events, max_size=12), st.integers(1, 7))
def test_regrouping_keeps_every_event_and_the_order_within_each_partition(sent: list[Event], partitions: int) -> None:
    found: dict[int, list[Event]] = {}
    for records in rounds(sent, partitions):
        for partition, content in records.items():
            found.setdefault(partition, []).extend(record_of(partition, 0, content).events)

    for partition in range(partitions):
        assert found.get(partition, []) == [event for event in sent if partition_of(key_of(event), partitions) == partition]


@given(st.lists(events, max_size=12))
def test_a_record_is_larger_than_the_limit_only_when_one_event_is(sent: list[Event]) -> None:
    for records in rounds(sent, 2):
        for content in records.values():
            assert len(content) <= RECORD_BYTES or len(record_of(0, 0, content).events) == 1


def test_partitions_are_the_first_four_bytes_of_blake3() -> None:
    # blake3("abc") begins 6437b3ac: fixed for the life of a topic
    assert [partition_of("abc", n) for n in (1, 6, 1000)] == [0, 0x6437B3AC % 6, 0x6437B3AC % 1000]


def test_a_prediction_with_its_feedback_a_labelled_row_and_a_pod_have_their_own_keys() -> None:
    assert key_of(prediction(1)) == key_of(feedback(1)) == "prediction-1"
    assert key_of(Event(example=ExampleEvent(example_id="row-1"))) == "example:row-1"
    assert key_of(Event(pod_report=PodReport(pod="pod-1"))) == "pod-1"
