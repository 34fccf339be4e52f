"""How answers, feedback and versions look in a terminal. Knows the messages and rich; calls nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from liveloop.rpc import error_of
from liveloop.v1 import inference_pb2, learner_pb2

_SHORTEST = 8
"""Characters of the last column that are shown in any terminal."""
Rows = Sequence[tuple[str, ...]]


def answers(predictions: Sequence[inference_pb2.Prediction], texts: Sequence[str]) -> None:
    """One row an answer."""
    rows = [(one.label, f"{one.scores[0].score:.2f}", str(one.version), one.prediction_id) for one in predictions]
    _table(("label", "score", "version", "id", "text"), [(*row, text) for row, text in zip(rows, texts, strict=True)])


def acknowledged(ack: inference_pb2.FeedbackAck, prediction_id: str) -> None:
    """What the service said to a feedback. Raises the error that a refusal stands for."""
    if ack.status == inference_pb2.ACK_STATUS_REJECTED:
        raise error_of(ack.code, f"{ack.field}: {ack.reason}" if ack.field else ack.reason, field=ack.field)
    known = ack.status == inference_pb2.ACK_STATUS_DUPLICATE
    _list(
        ("feedback", "known already; nothing changed" if known else "accepted: it is durable"),
        ("id", ack.feedback_id),
        ("follow it with", f"liveloop feedback status {prediction_id}"),
    )


def status(found: learner_pb2.GetFeedbackStatusResponse) -> None:
    """What became of a feedback."""
    state = learner_pb2.FeedbackState.Name(found.state).removeprefix("FEEDBACK_STATE_").lower().replace("_", " ")
    waited = (found.served_at.ToDatetime() - found.accepted_at.ToDatetime()).total_seconds()
    _list(
        ("state", state),
        ("feedback id", found.feedback_id),
        ("accepted", _time(found.accepted_at)),
        ("learnt in step", str(found.step or "")),
        ("first in version", str(found.version or "")),
        ("served", f"{_time(found.served_at)}, {waited:.1f} s after" if found.HasField("served_at") else ""),
        ("reason", found.reason),
    )


def unread(feedback_id: str) -> None:
    """A feedback that was sent from here and that the learner has not read yet."""
    _list(("state", "pending"), ("feedback id", feedback_id), ("reason", "it was sent from here; the learner has not read it yet"))


def versions(found: Sequence[learner_pb2.Version]) -> None:
    """One row a version; the current one has a star."""
    rows = [
        (
            f"{one.version}{' *' if one.current else ''}",
            one.kind,
            _time(one.created_at),
            str(one.feedback),
            f"{one.patch_bytes / 1e6:.2f} MB",
            f"{one.accuracy:.3f}" if one.HasField("accuracy") else "",
            "blessed" if one.blessed else "held" if one.held else "",
            str(one.pods),
        )
        for one in found
    ]
    _table(("version", "kind", "made", "feedback", "patch", "accuracy", "state", "pods"), rows)


def _time(stamp: Timestamp) -> str:
    """A time as a person here reads it; empty where there is none."""
    return stamp.ToDatetime(tzinfo=UTC).astimezone().strftime("%m-%d %H:%M:%S") if stamp.seconds else ""


def _table(columns: Sequence[str], rows: Rows) -> None:
    """Rows under a header; the last column is cut where the terminal is too narrow."""
    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    taken = sum(2 + max(len(column), *(len(row[number]) for row in rows)) for number, column in enumerate(columns[:-1])) if rows else 0
    for row in rows:
        last = Text(row[-1])
        last.truncate(max(_SHORTEST, console.width - taken - 2), overflow="ellipsis")
        table.add_row(*(Text(cell) for cell in row[:-1]), last)
    console.print(table)


def _list(*rows: tuple[str, str]) -> None:
    """Names and values, one a line; those without a value are left out."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value:
            table.add_row(Text(name, style="dim"), Text(value))
    Console(soft_wrap=True).print(table)
