"""The commands for what went wrong with the event log: records that cannot be read, and records that are missing. Knows the client."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from liveloop.addresses import LearnerPort, Who, Why, connect, login

Number = Annotated[int, typer.Argument(min=1, help="Its number, as in `liveloop dead-letters list`.", metavar="ID")]
Numbers = Annotated[list[int] | None, typer.Argument(help="As in `liveloop dead-letters list`.", metavar="[ID]...")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Raw = Annotated[bool, typer.Option("--raw", help="The bytes alone, as they are, to a file or a pipe.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many.")]

dead_letters = typer.Typer(help="Records of the event log in which something could not be used.", no_args_is_help=True)
log = typer.Typer(help="The event log behind the learner.", no_args_is_help=True)


@dead_letters.command("list")
def show_all(limit: Limit = 100, learner_port: LearnerPort = None) -> None:
    """What was set aside, newest first."""
    from liveloop import report

    with connect(learner_port=learner_port) as client:
        found = client.dead_letters(limit)
    report.dead_letters(found)


@dead_letters.command()
def show(number: Number, raw: Raw = False, learner_port: LearnerPort = None) -> None:
    """One record: what is wrong with it, and its bytes."""
    from liveloop import report

    with connect(learner_port=learner_port) as client:
        found = client.dead_letter(number)
    if raw:
        sys.stdout.buffer.write(found.content)
    else:
        report.dead_letter(found)


@dead_letters.command()
def retry(numbers: Numbers = None, everything: All = False, why: Why = "", who: Who = "", learner_port: LearnerPort = None) -> None:
    """Read records again, after an upgrade that can. What was taken from them before is not taken twice."""
    if bool(numbers) == everything:
        raise typer.BadParameter("give one or more ID, or --all")
    with connect(learner_port=learner_port) as client:
        done = client.retry_dead_letters(None if everything else numbers, who=who or login(), why=why)
    typer.echo(f"{done.read} could be read, {done.left} still cannot" if done.read or done.left else "there is no such dead letter")


@log.command("accept-gap")
def accept_gap(
    why: Annotated[str, typer.Option(help="Why: kept in the journal.", prompt=True)], who: Who = "", learner_port: LearnerPort = None
) -> None:
    """Go on behind records that were removed from the event log before the learner read them.

    What may be lost: every prediction and feedback in those records. Feedback among them was acknowledged and will never train;
    feedback behind them on a prediction among them expires. If the log can be restored, restore it instead: the learner finds that
    out by itself. Until either happens nothing is read; training and serving go on with what was read before.
    """
    with connect(learner_port=learner_port) as client:
        gaps = client.accept_gap(who=who or login(), why=why)
    for gap in gaps:
        typer.echo(f"partition {gap.partition}: {getattr(gap, 'from')} was to be read next; going on at {gap.to}, the oldest there is")
