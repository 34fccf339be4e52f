"""What makes an event unusable: an id, a number, a time or a text that nothing behind the log could do anything with. Knows no log.

An event that is merely wrong (an unknown label, too late, without a signal) is not malformed: it has a state of its own in the learner.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from liveloop.rows import EXAMPLE
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP, Event, ExampleEvent, Feedback, FeedbackEvent, Input, PodReport, PredictionEvent

KINDS = ("undecodable", "format", "kind", "id", "number", "time", "text")
"""All that can be wrong, for a metric's label."""

_is_uuidv7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
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
    """The first thing wrong with an event; None where there is nothing.

    Every event that is read passes here, so that the checks are plain comparisons and a fault is put into words only once it is found.
    """
    kind = event.WhichOneof("event")
    if kind == "prediction":
        return _in_prediction(event.prediction)
    if kind == "feedback":
        return _in_feedback(event.feedback)
    if kind == "pod_report":
        return _in_report(event.pod_report)
    if kind == "example":
        return _in_example(event.example)
    return Fault("kind", "an event is of no kind known here: perhaps a newer liveloop wrote it")


def _in_prediction(event: PredictionEvent) -> Fault | None:
    if not _is_uuidv7(event.prediction_id):
        return _not_uuid(event.prediction_id)
    label, asker = event.label, event.asker
    if len(label) > _NAME or len(asker) > _NAME:
        return _too_long(label=label, asker=asker)
    if fault := _in_input(event.input):
        return fault
    if not (0.0 <= event.score <= 1.0 and 0.0 <= event.propensity <= 1.0):
        return Fault("number", f"a prediction's score {event.score} or propensity {event.propensity} is not in [0, 1]")
    return _in_time(event.created_at)


def _in_feedback(event: FeedbackEvent) -> Fault | None:
    said, judge = event.feedback, event.judge
    prediction_id, feedback_id = said.prediction_id, said.feedback_id
    if not _is_uuidv7(prediction_id) and not prediction_id.startswith(EXAMPLE):
        return _not_uuid(prediction_id)
    if not feedback_id:
        return Fault("id", "a feedback has no id")
    if not judge:  # nobody's is what a default reward has
        return Fault("id", "a feedback has no judge")
    signal = said.WhichOneof("signal")
    label = said.correction.label if signal == "correction" else ""
    client, trace = event.client, event.traceparent
    if (
        len(prediction_id) > _NAME
        or len(feedback_id) > _NAME
        or len(label) > _NAME
        or len(judge) > _NAME
        or len(client) > _NAME
        or len(trace) > _NAME
    ):
        return _too_long(prediction_id=prediction_id, feedback_id=feedback_id, label=label, judge=judge, client=client, trace=trace)
    return _in_said(said, signal) or _in_time(event.accepted_at)


def _in_said(said: Feedback, signal: str | None) -> Fault | None:
    comment, reasons = said.comment, said.reasons
    if len(comment) > _COMMENT or len(reasons) > _REASONS:
        return Fault("text", f"a feedback has a comment of {len(comment)} characters and {len(reasons)} reasons")
    if reasons and max(map(len, reasons)) > _NAME:
        return _too_long(reason=next(reason for reason in reasons if len(reason) > _NAME))
    if signal == "rating" and not 0.0 <= said.rating <= 1.0:
        return Fault("number", f"a rating of {said.rating} is not in [0, 1]")
    if signal == "thumb" and said.thumb not in (THUMB_UP, THUMB_DOWN):
        return Fault("number", f"a thumb of {said.thumb} is neither up nor down")
    return None


def _in_example(event: ExampleEvent) -> Fault | None:
    example_id, label, judge, client, trace = event.example_id, event.label, event.judge, event.client, event.traceparent
    if not example_id:
        return Fault("id", "an example has no id")
    if max(len(example_id), len(label), len(judge), len(client), len(trace)) > _NAME:
        return _too_long(example_id=example_id, label=label, judge=judge, client=client, trace=trace)
    return _in_input(event.input) or _in_time(event.accepted_at)


def _in_report(event: PodReport) -> Fault | None:
    if not event.pod:
        return Fault("id", "a pod's report does not name the pod")
    if len(event.pod) > _NAME:
        return _too_long(pod=event.pod)
    for done in event.channels:
        if max(done.answered, done.failed, done.batches) > _MOST or not 0.0 <= done.seconds < float("inf"):
            return Fault("number", "a pod's report counts more than can be")
    return _in_time(event.reported_at) or _in_time(event.flipped_at)


def _in_input(given: Input) -> Fault | None:
    if given.WhichOneof("input") is None:
        return Fault("text", "an input is missing, or of no kind known here")
    if len(given.text) > _TEXT:
        return Fault("text", f"an input is {len(given.text)} characters long; at most {_TEXT}")
    return None


def _in_time(stamp: Timestamp) -> Fault | None:
    if 0 <= stamp.seconds < _LATEST and 0 <= stamp.nanos < 1_000_000_000:
        return None
    return Fault("time", f"a time of {stamp.seconds} s after 1970 is out of range")


def _not_uuid(prediction_id: str) -> Fault:
    return Fault("id", f"{prediction_id[:64]!r} is not the id of a prediction, which is a UUIDv7")


def _too_long(**parts: str | bytes) -> Fault:
    """The first of `parts` that is: one of them must be."""
    name, part = next((name, part) for name, part in parts.items() if len(part) > _NAME)
    kind = "id" if name in ("prediction_id", "feedback_id", "example_id", "pod") else "text"
    return Fault(kind, f"{name} is {len(part)} long; at most {_NAME}")
