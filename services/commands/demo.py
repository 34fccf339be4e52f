"""`liveloop demo`: its options. Knows nothing of the demo itself: demo_run.py does the work, imported late so that `--help` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    *,
    data: Annotated[
        Path | None, typer.Option(help="Empty folder for all state; ./demo-output/data by default, made anew each time.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which reviews come in which order, and who judges them.")] = 0,
    thumbs: Annotated[int | None, typer.Option(min=1, help="Thumbs to give; by default as many as come in about 100 s.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on standard output.")] = False,
) -> None:
    """Watch a model learn: real people's thumbs on movie reviews, for a model that has only seen tweets."""
    from services.commands.demo_run import run_demo

    run_demo(data, seed=seed, thumbs=thumbs, as_json=as_json)
