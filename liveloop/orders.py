"""The commands that steer a running loop. Knows the client; what an order leads to is the learner's business."""

from __future__ import annotations

from typing import Annotated

import typer

from liveloop import mishaps
from liveloop.addresses import LearnerPort, Who, Why, connect, login
from liveloop.errors import InvalidInput

Version = Annotated[int, typer.Argument(min=1, help="Its number, as in `liveloop versions`.", metavar="VERSION")]
Names = Annotated[list[str] | None, typer.Argument(help="As in `liveloop quarantine list`.", metavar="[PREDICTION_ID/FEEDBACK_ID]...")]
All = Annotated[bool, typer.Option("--all", help="All that is quarantined now.")]

_PATIENCE = 3600.0
"""Seconds to wait for a rebuild: some ten thousand steps of a small model."""

quarantine = typer.Typer(help="Feedback that the guard or a rollback set aside.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (promote, rollback, pin, unpin, pause, resume, forget):
        app.command()(command)
    app.add_typer(quarantine, name="quarantine")
    app.add_typer(mishaps.dead_letters, name="dead-letters")
    app.add_typer(mishaps.log, name="log")


def promote(version: Version, why: Why = "", who: Who = "", learner_port: LearnerPort = None) -> None:
    """Bless a version by hand."""
    with connect(learner_port=learner_port) as client:
        client.promote(version, who=who or login(), why=why)
    _say(f"version {version} is blessed")


def rollback(version: Version, why: Why = "", who: Who = "", learner_port: LearnerPort = None) -> None:
    """Serve the weights of an older version again, as a new version."""
    with connect(learner_port=learner_port) as client:
        done = client.rollback(version, who=who or login(), why=why)
    aside = f"; {_feedbacks(done.quarantined)} set aside: see `liveloop quarantine list`" if done.quarantined else ""
    _say(f"version {done.version} has the weights of {version}{aside}")


def pin(version: Version, why: Why = "", who: Who = "", learner_port: LearnerPort = None) -> None:
    """Keep a version from collection."""
    with connect(learner_port=learner_port) as client:
        client.pin(version, who=who or login(), why=why)
    _say(f"version {version} is kept until `liveloop unpin {version}`")


def unpin(version: Version, why: Why = "", who: Who = "", learner_port: LearnerPort = None) -> None:
    """Let a pinned version go."""
    with connect(learner_port=learner_port) as client:
        client.unpin(version, who=who or login(), why=why)
    _say(f"version {version} goes when nothing else needs it")


def pause(why: Why = "", who: Who = "", learner_port: LearnerPort = None) -> None:
    """Take no more steps; feedback is still accepted and read."""
    with connect(learner_port=learner_port) as client:
        client.pause(who=who or login(), why=why)
    _say("training is paused, over restarts too, until `liveloop resume`; feedback waits")


def resume(why: Why = "", who: Who = "", learner_port: LearnerPort = None) -> None:
    """Take steps again, also after the guard paused training."""
    with connect(learner_port=learner_port) as client:
        client.resume(who=who or login(), why=why)
    _say("training goes on with the feedback that waited")


def forget(
    user: Annotated[str, typer.Option(help="Who: the `user` of their predictions and feedback.")] = "",
    session: Annotated[str, typer.Option(help="Or which session: the `session_id` of its predictions.")] = "",
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Redo training without them, too; predictions go on meanwhile.")] = False,
    why: Why = "",
    who: Who = "",
    learner_port: LearnerPort = None,
) -> None:
    """Erase all that one user asked and judged, and take nothing of it in again."""
    from liveloop import report

    if bool(user) == bool(session):
        raise typer.BadParameter("give --user U or --session S")
    with connect(learner_port=learner_port, timeout=_PATIENCE) as client:
        done = client.forget(user=user, session_id=session, rebuild=rebuild, who=who or login(), why=why)
    report.forgotten(done, asked=rebuild)


@quarantine.command("list")
def show(limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 100, learner_port: LearnerPort = None) -> None:
    """What is set aside, newest first."""
    from liveloop import report

    with connect(learner_port=learner_port) as client:
        found = client.quarantine(limit)
    report.quarantine(found)


@quarantine.command()
def release(names: Names = None, everything: All = False, why: Why = "", who: Who = "", learner_port: LearnerPort = None) -> None:
    """Let it train, in new steps."""
    chosen = _chosen(names, everything=everything)
    with connect(learner_port=learner_port) as client:
        count = client.release(chosen, who=who or login(), why=why)
    _say(f"{_feedbacks(count)} released: the next steps learn from them" if count else "none of that is in quarantine")


@quarantine.command()
def drop(names: Names = None, everything: All = False, why: Why = "", who: Who = "", learner_port: LearnerPort = None) -> None:
    """Reject it for good."""
    chosen = _chosen(names, everything=everything)
    with connect(learner_port=learner_port) as client:
        count = client.drop(chosen, who=who or login(), why=why)
    _say(f"{_feedbacks(count)} rejected for good" if count else "none of that is in quarantine")


def _chosen(names: list[str] | None, *, everything: bool) -> list[tuple[str, str]] | None:
    """The feedback meant; None for all."""
    if bool(names) == everything:
        raise typer.BadParameter("give one or more PREDICTION_ID/FEEDBACK_ID, or --all")
    parts = [(name, *name.partition("/")) for name in names or ()]
    for name, prediction_id, _, feedback_id in parts:
        if not (prediction_id and feedback_id):
            raise InvalidInput(f"{name!r} is not PREDICTION_ID/FEEDBACK_ID, as `liveloop quarantine list` shows it")
    return None if everything else [(prediction_id, feedback_id) for _, prediction_id, _, feedback_id in parts]


def _feedbacks(count: int) -> str:
    return f"{count} feedback{'s are' if count != 1 else ' is'}"


def _say(sentence: str) -> None:
    typer.echo(sentence)
