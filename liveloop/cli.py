"""The `liveloop` command: asks, judges and looks from a terminal. Knows the client; the commands that run services join it from a clone."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveloop.errors import LiveloopError, Misconfigured, NotFound, Unavailable, sentence

if TYPE_CHECKING:
    from liveloop.client import Client

_OF_SERVICES = ("up", "init", "demo", "bench")
_FULL_ID = 36  # characters of a UUID

app = typer.Typer(help="A model that learns from its users while it serves them.", add_completion=False, no_args_is_help=True)
feedback = typer.Typer(help="Judge answers, and ask what became of it.", no_args_is_help=True)
app.add_typer(feedback, name="feedback")

Data = Annotated[Path | None, typer.Option(help="Folder with the last answers; ./liveloop-data by default.")]
GrpcPort = Annotated[int | None, typer.Option(min=1, max=65_535, help="gRPC port of the inference service on this machine.")]
LearnerPort = Annotated[int | None, typer.Option(min=1, max=65_535, help="gRPC port of the learner on this machine.")]
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

    with _client(grpc_port) as client:
        answers = client.predict(text)
    report.answers(answers, text)
    recent.keep(_data(data), answers)


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
    prediction = recent.find(_data(data), answer_id)
    with _client(grpc_port) as client:
        ack = client.feedback(prediction, thumb.value if thumb else rating, label=correct)
    report.acknowledged(ack, prediction.prediction_id)
    recent.keep_sent(_data(data), prediction.prediction_id, ack.feedback_id)


@feedback.command()
def retract(answer_id: Id, data: Data = None, grpc_port: GrpcPort = None) -> None:
    """Take back what was said about an answer: it never trains again."""
    from liveloop import recent, report

    prediction = recent.find(_data(data), answer_id)
    with _client(grpc_port) as client:
        ack = client.retract(prediction)
    report.acknowledged(ack, prediction.prediction_id)
    recent.keep_sent(_data(data), prediction.prediction_id, ack.feedback_id)


@feedback.command()
def status(
    answer_id: Id,
    feedback_id: Annotated[str, typer.Argument(help="Id of the feedback; the newest on that answer when left out.")] = "",
    data: Data = None,
    learner_port: LearnerPort = None,
) -> None:
    """What became of a feedback."""
    from liveloop import recent, report

    whole = _full_id(_data(data), answer_id)
    try:
        with _client(learner_port=learner_port) as client:
            found = client.status(whole, feedback_id)
    except NotFound:
        sent = recent.find_sent(_data(data), whole, feedback_id)
        if not sent:
            raise
        report.unread(sent)
    else:
        report.status(found)


@app.command()
def versions(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    learner_port: LearnerPort = None,
) -> None:
    """The newest versions of the weights."""
    from liveloop import report

    with _client(learner_port=learner_port) as client:
        found = client.versions(limit)
    report.versions(found)


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


def _client(grpc_port: int | None = None, *, learner_port: int | None = None) -> Client:
    from liveloop.client import Client

    return Client(_address("inference", grpc_port), learner=_address("learner", learner_port))


def _address(service: str, port: int | None) -> str:
    """Command line, environment, liveloop.toml, default: as the services find each other."""
    if port:
        return f"127.0.0.1:{port}"
    default = {"inference": "127.0.0.1:50051", "learner": "127.0.0.1:50052"}[service]
    return _setting(f"{service}_target") or _setting(f"{service}_listen") or default


def _data(folder: Path | None) -> Path:
    return folder or Path(_setting("data") or "liveloop-data")


def _setting(name: str) -> str:
    """A setting that the client shares with the services; `liveloop.settings` itself needs more than the wheel brings."""
    value = os.environ.get(f"LIVELOOP_{name.upper()}", "")
    if not value and Path("liveloop.toml").is_file():
        import tomllib

        try:
            value = str(tomllib.loads(Path("liveloop.toml").read_text(encoding="utf-8")).get(name, ""))
        except (OSError, ValueError) as error:
            raise Misconfigured(f"liveloop.toml cannot be read: {error}") from error
    return value


def _full_id(folder: Path, answer_id: str) -> str:
    """An id may be shortened where the answer was got here; a whole one may be of an answer got elsewhere."""
    from liveloop import recent

    try:
        return recent.find(folder, answer_id).prediction_id
    except NotFound:
        if len(answer_id) != _FULL_ID:
            raise
        return answer_id
