"""What makes an event unusable: an id, a number, a time or a text that nothing behind the log could do anything with. Knows no log.

An event that is merely wrong (an unknown label, too late, without a signal) is not malformed: it has a state of its own in the learner.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from liveloop.rows import EXAMPLE
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP, Event, ExampleEvent, FeedbackEvent, Input, PodReport, PredictionEvent

KINDS = ("undecodable", "format", "kind", "id", "number", "time", "text")
"""All that can be wrong, for a metric's label."""

_UUIDV7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAME = 256
"""Characters in an id, a label, a name, or bytes in a keyed hash: far above all that are made here."""
_TEXT = 4 << 20
"""Characters in an input: what gRPC lets in at most."""
_COMMENT, _REASONS = 16_384, 64
"""Four times what is accepted, since a later version may accept more."""
_LATEST = 4_102_444_800
"""The year 2100: a clock that says more is broken."""
_MOST = (1 << 63) - 1
"""The greatest number a table holds."""


class Fault(NamedTuple):
    """What is wrong with a record or an event."""

    kind: str  # one of KINDS
    what: str  # a sentence for a person


def fault_of(event: Event) -> Fault | None:
    """The first thing wrong with an event; None where there is nothing."""
    kind = event.WhichOneof("event")
    if kind == "prediction":
        return next(_in_prediction(event.prediction), None)
    if kind == "feedback":
        return next(_in_feedback(event.feedback), None)
    if kind == "pod_report":
        return next(_in_report(event.pod_report), None)
    if kind == "example":
        return next(_in_example(event.example), None)
    return Fault("kind", "an event is of no kind known here: perhaps a newer liveloop wrote it")


def _in_prediction(event: PredictionEvent) -> Iterator[Fault]:
    yield from _not_uuid(event.prediction_id)
    yield from _too_long(label=event.label, asker=event.asker)
    yield from _bad_input(event.input)
    if not (0.0 <= event.score <= 1.0 and 0.0 <= event.propensity <= 1.0):
        yield Fault("number", f"a prediction's score {event.score} or propensity {event.propensity} is not in [0, 1]")
    yield from _bad_times(event.created_at)


def _in_feedback(event: FeedbackEvent) -> Iterator[Fault]:
    said = event.feedback
    if not said.prediction_id.startswith(EXAMPLE):
        yield from _not_uuid(said.prediction_id)
    if not said.feedback_id:
        yield Fault("id", "a feedback has no id")
    if not event.judge:  # nobody's is what a default reward has
        yield Fault("id", "a feedback has no judge")
    label = said.correction.label if said.WhichOneof("signal") == "correction" else ""
    yield from _too_long(
        prediction_id=said.prediction_id,
        feedback_id=said.feedback_id,
        label=label,
        judge=event.judge,
        client=event.client,
        trace=event.traceparent,
    )
    if len(said.comment) > _COMMENT or len(said.reasons) > _REASONS:
        yield Fault("text", f"a feedback has a comment of {len(said.comment)} characters and {len(said.reasons)} reasons")
    yield from (fault for reason in said.reasons for fault in _too_long(reason=reason))
    if said.WhichOneof("signal") == "rating" and not 0.0 <= said.rating <= 1.0:
        yield Fault("number", f"a rating of {said.rating} is not in [0, 1]")
    if said.WhichOneof("signal") == "thumb" and said.thumb not in (THUMB_UP, THUMB_DOWN):
        yield Fault("number", f"a thumb of {said.thumb} is neither up nor down")
    yield from _bad_times(event.accepted_at)


def _in_example(event: ExampleEvent) -> Iterator[Fault]:
    if not event.example_id:
        yield Fault("id", "an example has no id")
    yield from _too_long(example_id=event.example_id, label=event.label, judge=event.judge, client=event.client, trace=event.traceparent)
    yield from _bad_input(event.input)
    yield from _bad_times(event.accepted_at)


def _in_report(event: PodReport) -> Iterator[Fault]:
    if not event.pod:
        yield Fault("id", "a pod's report does not name the pod")
    yield from _too_long(pod=event.pod)
    for done in event.channels:
        if max(done.answered, done.failed, done.batches) > _MOST or not 0.0 <= done.seconds < float("inf"):
            yield Fault("number", "a pod's report counts more than can be")
    yield from _bad_times(event.reported_at, event.flipped_at)


def _not_uuid(prediction_id: str) -> Iterator[Fault]:
    if not _UUIDV7.fullmatch(prediction_id):
        yield Fault("id", f"{prediction_id[:64]!r} is not the id of a prediction, which is a UUIDv7")


def _too_long(**parts: str | bytes) -> Iterator[Fault]:
    for name, part in parts.items():
        if len(part) > _NAME:
            kind = "id" if name in ("prediction_id", "feedback_id", "example_id", "pod") else "text"
            yield Fault(kind, f"{name} is {len(part)} long; at most {_NAME}")


def _bad_input(given: Input) -> Iterator[Fault]:
    if given.WhichOneof("input") is None:
        yield Fault("text", "an input is missing, or of no kind known here")
    elif len(given.text) > _TEXT:
        yield Fault("text", f"an input is {len(given.text)} characters long; at most {_TEXT}")


def _bad_times(*stamps: Timestamp) -> Iterator[Fault]:
    for stamp in stamps:
        if not (0 <= stamp.seconds < _LATEST and 0 <= stamp.nanos < 1_000_000_000):
            yield Fault("time", f"a time of {stamp.seconds} s after 1970 is out of range")
