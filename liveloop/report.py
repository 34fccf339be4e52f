"""How answers, feedback and versions look in a terminal. Knows the messages and rich; calls nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Self

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table
from rich.text import Text

from liveloop.rpc import error_of
from liveloop.v1 import inference_pb2, learner_pb2

_SHORTEST = 8
"""Characters of the last column that are shown in any terminal."""
Rows = Sequence[tuple[str, ...]]


def answers(predictions: Sequence[inference_pb2.Prediction], texts: Sequence[str]) -> None:
    """One row an answer, and on which of them a judgement would teach most."""
    rows = [(one.label, f"{_score(one):.2f}", str(one.version), one.prediction_id) for one in predictions]
    _table(("label", "score", "version", "id", "text"), [(*row, text) for row, text in zip(rows, texts, strict=True)])
    for one in predictions:
        if one.feedback_wanted:
            asked = f"Was this right? `liveloop feedback send {one.prediction_id} up`, or down"
            Console(soft_wrap=True).print(Text(asked, style="dim"))


def _score(one: inference_pb2.Prediction) -> float:
    """The model's probability of the label that was chosen."""
    return next(score.score for score in one.scores if score.label == one.label)


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
    state = _short(learner_pb2.FeedbackState.Name(found.state), "FEEDBACK_STATE_")
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


def summary(found: learner_pb2.GetFeedbackSummaryResponse) -> None:
    """What is kept of feedback, counted, commonest first; and how right the newest judged answers were."""
    parts = [("state", found.states), ("signal", found.signals), ("reason", found.reasons)]
    rows = [(what, str(one.count), one.name) for what, counts in parts for one in sorted(counts, key=lambda one: -one.count)]
    _table(("by", "count", "name"), rows)
    live = [(one.name, _points(one.accuracy), str(one.judged), str(one.judges)) for one in found.live]
    if live:
        Console().print()
        _table(("live accuracy", "%", "judged", "judges"), live)
    if found.HasField("holdout_uplift"):
        _list(("gained over users held out, points", _points(found.holdout_uplift)))


class Bar:
    """How far a file of that many rows has come, on standard error; nothing where that is no terminal."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("learn", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, rows: int) -> None:
        """So many more are done."""
        self._progress.advance(self._task, rows)


def learnt(accepted: int, duplicate: int, refused: int, reasons: Sequence[str]) -> None:
    """What became of labelled rows, and why the first of them were refused."""
    first = "" if refused <= len(reasons) else f", the first {len(reasons)}"
    _list(("accepted", f"{accepted:,}"), ("known already", f"{duplicate:,}"), ("refused", f"{refused:,}{first}"))
    for reason in reasons:
        Console(soft_wrap=True).print(Text(f"  {reason}"))


def unread(feedback_id: str) -> None:
    """A feedback that was sent from here and that the learner has not read yet."""
    _list(("state", "pending"), ("feedback id", feedback_id), ("reason", "it was sent from here; the learner has not read it yet"))


def versions(found: Sequence[learner_pb2.Version], now: float) -> None:
    """One row a version, in 80 columns, one column for each split of an evaluation. `now` is in Unix seconds."""
    splits = list(dict.fromkeys(score.split for one in found for score in one.scores))
    rows = [
        (
            f"{one.version} {'*' * one.current}{'+' * one.pinned}",
            str(one.parent or ""),
            _short(learner_pb2.VersionState.Name(one.state), "VERSION_STATE_"),
            one.kind,
            str(one.step or ""),
            str(one.feedback),
            _size(one.patch_bytes),
            _age(now - one.created_at.ToNanoseconds() / 1e9) if one.created_at.seconds else "",
            str(one.pods),
            *_percentages(one, splits),
        )
        for one in found
    ]
    _table(("version", "parent", "state", "kind", "step", "fb", "patch", "age", "pods", *splits), rows, gap=1)
    right = f"  {', '.join(splits)}: % right" if splits else ""
    Console(soft_wrap=True).print(Text(f"* current  + pinned  fb: new feedback{right}", style="dim"))


def version(found: learner_pb2.GetVersionResponse) -> None:
    """What one version is, then what was decided about it, then the feedback that it newly includes."""
    one = found.version
    shown = f"{one.feedback - found.erased} kept, {found.erased} erased" if found.erased else str(one.feedback)
    _list(
        ("version", f"{one.version}{', current' if one.current else ''}{', pinned' if one.pinned else ''}"),
        ("state", _short(learner_pb2.VersionState.Name(one.state), "VERSION_STATE_")),
        ("made by", f"{one.kind}, row {one.step} of the journal, {_time(one.created_at)}"),
        ("parent", str(one.parent or "")),
        ("new feedback", shown),
        ("replayed", str(found.replayed or "")),
        ("task rows", ", ".join(map(str, found.task_rows))),
        ("losses", ", ".join(f"{name} {loss:.4g}" for name, loss in sorted(found.losses.items()))),
        ("right answers", ", ".join(f"{score.split} {100 * score.accuracy:.1f} % of {score.rows}" for score in one.scores)),
        ("recipe", found.recipe),
        ("weights", found.state_digest),
        ("signed with", found.signer),
    )
    if found.decisions:
        _table(("when", "decision", "who", "why"), [(_time(d.decided_at), d.decision, d.who, d.why) for d in found.decisions])
    if found.feedback:
        rows = [
            (_short(learner_pb2.FeedbackState.Name(one.state), "FEEDBACK_STATE_"), one.signal, _name(one.feedback))
            for one in found.feedback
        ]
        _table(("state", "signal", "prediction/feedback"), rows)


def _name(feedback: learner_pb2.FeedbackName) -> str:
    return f"{feedback.prediction_id}/{feedback.feedback_id}"


def forgotten(done: learner_pb2.ForgetResponse, *, asked: bool) -> None:
    """What was erased, what is left of it and where, and until when; `asked` for a rebuild."""
    lapse = done.copies_lapse_at.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    versions = ", ".join(map(str, done.versions)) or "none"
    rebuilt = f"version {done.rebuilt} was made without it" if done.rebuilt else "not needed: no step learnt from it" if asked else ""
    _list(
        ("erased", f"{done.predictions} predictions, {done.feedback} feedbacks and labelled rows"),
        ("had taught", versions),
        ("rebuilt", rebuilt),
        ("copies lapse", f"by {lapse}: those in the event log and in outboxes, which nothing reads again"),
    )


def quarantine(found: learner_pb2.ListQuarantineResponse) -> None:
    """Two lines a feedback, the first as `release` and `drop` take it."""
    console = Console(soft_wrap=True)
    for one in found.feedback:
        console.print(Text(f"{one.prediction_id}/{one.feedback_id}"))
        step = f", learnt in step {one.step}" if one.step else ""
        console.print(Text(f"  {one.signal}, {_time(one.accepted_at)}{step}: {one.reason}", style="dim"))
    more = f", {len(found.feedback)} shown" if found.total > len(found.feedback) else ""
    console.print(Text(f"{found.total} in quarantine{more}"))


def dead_letters(found: learner_pb2.ListDeadLettersResponse) -> None:
    """Two lines a record: its number, as `show` and `retry` take it, and what is wrong with it."""
    console = Console(soft_wrap=True)
    for one in found.dead_letters:
        console.print(Text(f"{one.id}  partition {one.partition}, position {one.position}, {one.bytes} bytes, {_time(one.set_aside_at)}"))
        console.print(Text(f"  {one.reason}", style="dim"))
    more = f", {len(found.dead_letters)} shown" if found.total > len(found.dead_letters) else ""
    console.print(Text(f"{found.total} dead letter{'s' * (found.total != 1)}{more}"))


def dead_letter(found: learner_pb2.GetDeadLetterResponse) -> None:
    """What is wrong with one, and its bytes, 16 a line."""
    dead_letters(learner_pb2.ListDeadLettersResponse(dead_letters=[found.dead_letter], total=1))
    console = Console(soft_wrap=True)
    for at in range(0, len(found.content), 16):
        line = found.content[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        console.print(Text(f"{at:08x}  {line.hex(' '):47}  {text}"))


def _points(found: learner_pb2.Interval) -> str:
    """In points of a hundred, with its interval."""
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _percentages(version: learner_pb2.Version, splits: Sequence[str]) -> list[str]:
    """How a version did on each of `splits`; empty where it was not evaluated."""
    found = {score.split: f"{100 * score.accuracy:.1f}" for score in version.scores}
    return [found.get(split, "") for split in splits]


def _short(name: str, prefix: str) -> str:
    """An enum's value in words."""
    return name.removeprefix(prefix).lower().replace("_", " ")


def _size(size: int) -> str:
    unit, length = next(((unit, length) for unit, length in (("GB", 1e9), ("MB", 1e6)) if size >= length / 10), ("kB", 1e3))
    return f"{size / length:.2f} {unit}"


def _age(seconds: float) -> str:
    """In the greatest unit of which there are two at least."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _time(stamp: Timestamp) -> str:
    """A time as a person here reads it; empty where there is none."""
    return stamp.ToDatetime(tzinfo=UTC).astimezone().strftime("%m-%d %H:%M:%S") if stamp.seconds else ""


def _table(columns: Sequence[str], rows: Rows, *, gap: int = 2) -> None:
    """Rows under a header, `gap` spaces between columns; the last one is cut where the terminal is too narrow."""
    console = Console()
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    taken = sum(gap + max(len(column), *(len(row[number]) for row in rows)) for number, column in enumerate(columns[:-1])) if rows else 0
    for row in rows:
        last = Text(row[-1])
        last.truncate(max(_SHORTEST, console.width - taken - gap), overflow="ellipsis")
        table.add_row(*(Text(cell) for cell in row[:-1]), last)
    console.print(table)


def _list(*rows: tuple[str, str]) -> None:
    """Names and values, one a line; those without a value are left out."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value:
            table.add_row(Text(name, style="dim"), Text(value))
    Console(soft_wrap=True).print(table)
