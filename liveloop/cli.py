"""The `liveloop` command: asks, judges and looks from a terminal. Knows the client; the commands that run services join it from a clone."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from liveloop import orders
from liveloop.addresses import Data, GrpcPort, LearnerPort, connect, data_folder
from liveloop.errors import LiveloopError, Misconfigured, NotFound, Unavailable, sentence

_OF_SERVICES = ("up", "init", "keys", "demo", "bench")
_FULL_ID = 36  # characters of a UUID

app = typer.Typer(help="A model that learns from its users while it serves them.", add_completion=False, no_args_is_help=True)
feedback = typer.Typer(help="Judge answers, and ask what became of it.", no_args_is_help=True)
versions = typer.Typer(invoke_without_command=True)
app.add_typer(feedback, name="feedback")
app.add_typer(versions, name="versions")
orders.register(app)

Id = Annotated[str, typer.Argument(help="Id of the answer, or the beginning of it.", metavar="ID")]


class Thumb(StrEnum):
    """What a thumb can say."""

    up = "up"
    down = "down"


def main(arguments: list[str] | None = None) -> None:
    """The entry point: exits with 0, with 2 and one sentence on standard error, or with 130 on Ctrl-C."""
    _add_service_commands()
    try:
        app(arguments)
    except (LiveloopError, OSError) as error:
        hint = "; is it running? `liveloop up` starts it" if isinstance(error, Unavailable) else ""
        sys.stderr.write(f"liveloop: {sentence(error)}{hint}\n")
        sys.exit(2)


@app.command()
def predict(
    text: Annotated[list[str], typer.Argument(help="One or more texts.")],
    data: Data = None,
    grpc_port: GrpcPort = None,
) -> None:
    """Answer one or more texts."""
    from liveloop import recent, report

    with connect(grpc_port) as client:
        answers = client.predict(text)
    report.answers(answers, text)
    recent.keep(data_folder(data), answers)


@feedback.command()
def send(
    answer_id: Id,
    thumb: Annotated[Thumb | None, typer.Argument(help="Was it right?")] = None,
    correct: Annotated[str, typer.Option(metavar="LABEL", help="The label it should have been.")] = "",
    rating: Annotated[float | None, typer.Option(help="How right, from 0 to 1.")] = None,
    data: Data = None,
    grpc_port: GrpcPort = None,
) -> None:
    """Judge one of the last 1,000 answers: up, down, --correct LABEL or --rating R."""
    from liveloop import recent, report

    if (thumb is not None) + bool(correct) + (rating is not None) != 1:
        raise typer.BadParameter("give one of: up, down, --correct LABEL, --rating R")
    prediction = recent.find(data_folder(data), answer_id)
    with connect(grpc_port) as client:
        ack = client.feedback(prediction, thumb.value if thumb else rating, label=correct)
    report.acknowledged(ack, prediction.prediction_id)
    recent.keep_sent(data_folder(data), prediction.prediction_id, ack.feedback_id)


@feedback.command()
def retract(answer_id: Id, data: Data = None, grpc_port: GrpcPort = None) -> None:
    """Take back what was said about an answer: it never trains again."""
    from liveloop import recent, report

    prediction = recent.find(data_folder(data), answer_id)
    with connect(grpc_port) as client:
        ack = client.retract(prediction)
    report.acknowledged(ack, prediction.prediction_id)
    recent.keep_sent(data_folder(data), prediction.prediction_id, ack.feedback_id)


@feedback.command()
def status(
    answer_id: Id,
    feedback_id: Annotated[str, typer.Argument(help="Id of the feedback; the newest on that answer when left out.")] = "",
    data: Data = None,
    learner_port: LearnerPort = None,
) -> None:
    """What became of a feedback."""
    from liveloop import recent, report

    whole = _full_id(data_folder(data), answer_id)
    try:
        with connect(learner_port=learner_port) as client:
            found = client.status(whole, feedback_id)
    except NotFound:
        sent = recent.find_sent(data_folder(data), whole, feedback_id)
        if not sent:
            raise
        report.unread(sent)
    else:
        report.status(found)


@feedback.command()
def summary(learner_port: LearnerPort = None) -> None:
    """How much feedback is in each state, and which reasons people gave."""
    from liveloop import report

    with connect(learner_port=learner_port) as client:
        found = client.feedback_summary()
    report.summary(found)


@versions.callback()
def list_versions(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    learner_port: LearnerPort = None,
) -> None:
    """The newest versions of the weights; `show VERSION` for one of them."""
    from liveloop import report

    if context.invoked_subcommand is None:
        with connect(learner_port=learner_port) as client:
            found = client.versions(limit)
        report.versions(found, time.time())


@versions.command("show")
def show_version(number: orders.Version, learner_port: LearnerPort = None) -> None:
    """Where one version came from, and what was decided about it."""
    from liveloop import report

    with connect(learner_port=learner_port) as client:
        found = client.version(number)
    report.version(found)


def _add_service_commands() -> None:
    """From a clone or the image: the commands that run services. From the wheel: one sentence in their place."""
    if (Path(__file__).parents[1] / "services" / "commands" / "__init__.py").is_file():
        importlib.import_module("services.commands").register(app)
        return
    for name in _OF_SERVICES:
        app.command(
            name, help="Runs from a clone or the image.", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
        )(_not_here(name))


def _not_here(name: str) -> Callable[[], None]:
    def command() -> None:
        raise Misconfigured(f"`liveloop {name}` runs from a clone or the image; this is the client and the library alone")

    return command


def _full_id(folder: Path, answer_id: str) -> str:
    """An id may be shortened where the answer was got here; a whole one may be of an answer got elsewhere."""
    from liveloop import recent

    try:
        return recent.find(folder, answer_id).prediction_id
    except NotFound:
        if len(answer_id) != _FULL_ID:
            raise
        return answer_id
