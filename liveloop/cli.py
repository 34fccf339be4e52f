"""The `liveloop` command: asks, judges and looks from a terminal. Knows the client; the commands that run services join it from a clone."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveloop import learning, orders
from liveloop.addresses import Data, GrpcPort, LearnerPort, connect, data_folder
from liveloop.errors import LiveloopError, Misconfigured, NotFound, Unavailable, sentence
from liveloop.learning import Source

if TYPE_CHECKING:
    from liveloop.client import Client
    from liveloop.v1.inference_pb2 import Prediction
    from liveloop.v1.learner_pb2 import GetFeedbackStatusResponse

_OF_SERVICES = ("up", "init", "keys", "demo", "bench", "objectives", "reproduce", "evaluate", "report")
_FULL_ID = 36  # characters of a UUID

app = typer.Typer(help="A model that learns from its users while it serves them.", add_completion=False, no_args_is_help=True)
feedback = typer.Typer(help="Judge answers, and ask what became of it.", no_args_is_help=True)
versions = typer.Typer(invoke_without_command=True)
app.add_typer(feedback, name="feedback")
app.add_typer(versions, name="versions")
app.command()(learning.learn)
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
        hint = "; is the loop running? `liveloop up` starts it" if isinstance(error, Unavailable) else ""
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
    source: Annotated[Source, typer.Option(help="Who judges: expert and code need a key with the scope feedback.")] = Source.human,
    user: Annotated[str, typer.Option(help="In whose name; needs a key with the scope feedback.")] = "",
    data: Data = None,
    grpc_port: GrpcPort = None,
) -> None:
    """Judge one of the last 1,000 answers, with a key any answer: up, down, --correct LABEL or --rating R."""
    from liveloop import recent, report

    if (thumb is not None) + bool(correct) + (rating is not None) != 1:
        raise typer.BadParameter("give one of: up, down, --correct LABEL, --rating R")
    prediction = _answer(data_folder(data), answer_id)
    with connect(grpc_port) as client:
        ack = client.feedback(prediction, thumb.value if thumb else rating, label=correct, source=source.value, user=user)
    report.acknowledged(ack, prediction.prediction_id)
    recent.keep_sent(data_folder(data), prediction.prediction_id, ack.feedback_id)


@feedback.command()
def retract(
    answer_id: Id,
    user: Annotated[str, typer.Option(help="In whose name; needs a key with the scope feedback.")] = "",
    data: Data = None,
    grpc_port: GrpcPort = None,
) -> None:
    """Take back what was said about an answer: it never trains again."""
    from liveloop import recent, report

    prediction = _answer(data_folder(data), answer_id)
    with connect(grpc_port) as client:
        ack = client.retract(prediction, user=user)
    report.acknowledged(ack, prediction.prediction_id)
    recent.keep_sent(data_folder(data), prediction.prediction_id, ack.feedback_id)


@feedback.command()
def status(
    answer_id: Id,
    feedback_id: Annotated[str, typer.Argument(help="Id of the feedback; the newest on that answer when left out.")] = "",
    data: Data = None,
    learner_port: LearnerPort = None,
) -> None:
    """What became of a feedback, or of a labelled row by its id."""
    from liveloop import recent, report

    whole = answer_id
    try:
        with connect(learner_port=learner_port) as client:
            try:
                whole = _answer(data_folder(data), answer_id).prediction_id
                found = client.status(whole, feedback_id)
            except NotFound as unknown:
                found = _row_status(client, answer_id, unknown)
    except NotFound:
        sent = recent.find_sent(data_folder(data), whole, feedback_id)
        if not sent:
            raise
        report.unread(sent)
    else:
        report.status(found)


@feedback.command()
def summary(learner_port: LearnerPort = None) -> None:
    """How much feedback is in each state, which reasons people gave, and how right the answers were that they judged lately."""
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


def _answer(folder: Path, answer_id: str) -> Prediction:
    """An id may be shortened where the answer was got here; a whole one may be of an answer got elsewhere, without its token."""
    from liveloop import recent
    from liveloop.v1.inference_pb2 import Prediction

    try:
        return recent.find(folder, answer_id)
    except NotFound:
        if len(answer_id) != _FULL_ID:
            raise
        return Prediction(prediction_id=answer_id)


def _row_status(client: Client, row_id: str, unknown: NotFound) -> GetFeedbackStatusResponse:
    """What became of a labelled row; where there is none of that id, `unknown` is raised."""
    from liveloop.rows import EXAMPLE

    try:
        return client.status(EXAMPLE + row_id.removeprefix(EXAMPLE))
    except NotFound:
        raise unknown from None
