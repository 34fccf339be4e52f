"""`liveloop report`: its options. Knows the terminal; what it says is made beside it, imported late so that `--help` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.commands import Data


def report(
    *,
    data: Data = None,
    output: Annotated[Path | None, typer.Option(help="The page to write; report.html in the data folder by default.")] = None,
    evaluation: Annotated[bool, typer.Option(help="Ask the first version and the newest about the test rows: up to a minute.")] = True,
) -> None:
    """Write what the loop learnt as one page that needs nothing else, and as event files for TensorBoard beside it."""
    from rich.console import Console

    from liveloop.settings import load_settings
    from services.commands.report.writing import write_report

    settings = load_settings(data=data)
    page = output or settings.data / "report.html"
    write_report(settings, page, evaluate=evaluation, console=Console(stderr=True))
    typer.echo(f"The report is in {page}; its curves also for `tensorboard --logdir {page.parent / 'tensorboard'}`.")
