"""The commands that need a clone: up, init, keys, demo and bench. Each imports what it needs when it runs, so that `--help` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path | None, typer.Option(help="Folder with all state; ./liveloop-data by default.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    from services.commands.bench import bench_app
    from services.commands.demo import demo
    from services.commands.evaluate import evaluate
    from services.commands.init import init
    from services.commands.keys import keys_app
    from services.commands.objectives import objectives
    from services.commands.report import report
    from services.commands.reproduce import reproduce

    app.command("up")(_up)
    app.add_typer(keys_app(), name="keys")
    app.command("init")(init)
    app.command("demo")(demo)
    app.command("objectives")(objectives)
    app.command("reproduce")(reproduce)
    app.command("evaluate")(evaluate)
    app.command("report")(report)
    app.add_typer(bench_app(), name="bench")


def _up(
    data: Data = None,
    grpc_port: Annotated[int | None, typer.Option(min=1, max=65_535, help="gRPC port of the inference service.")] = None,
    learner_port: Annotated[int | None, typer.Option(min=1, max=65_535, help="gRPC port of the learner.")] = None,
    http_port: Annotated[int | None, typer.Option(min=1, max=65_535, help="HTTP port of the gateway and its page.")] = None,
    ops_port: Annotated[int | None, typer.Option(min=1, max=65_533, help="First of three ports for metrics and probes.")] = None,
    events_url: Annotated[str | None, typer.Option(help="sqlite:///FILE or kafka://HOST:PORT,HOST:PORT/TOPIC.")] = None,
    weights_url: Annotated[str | None, typer.Option(help="file:///FOLDER or redis://HOST:PORT.")] = None,
    take_over: Annotated[bool, typer.Option("--take-over", help="Replace the head of another model in Redis.")] = False,
) -> None:
    """Keep the loop running, with a page to try it on; an empty data folder is first initialised with the demo model."""
    from rich.console import Console

    from services.commands.up import up, up_settings

    settings = up_settings(
        data=data,
        grpc_port=grpc_port,
        learner_port=learner_port,
        http_port=http_port,
        ops_port=ops_port,
        events_url=events_url,
        weights_url=weights_url,
        take_over=take_over or None,
    )
    up(settings, Console())
