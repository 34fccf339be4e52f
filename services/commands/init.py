"""`liveloop init`: its options. Knows no model: demo_model.py and own_model.py do the work, imported late so that `--help` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveloop.errors import Misconfigured

if TYPE_CHECKING:
    from rich.console import Console

    from liveloop.settings import Settings

_DATA_HELP = "csv, jsonl or parquet file of labelled rows"


def init(
    *,
    data: Annotated[Path | None, typer.Option(help="Folder to initialise; ./liveloop-data by default.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A transformers folder, or a name on the Hugging Face hub.", metavar="DIR|HUB_NAME")
    ] = None,
    task_data: Annotated[
        Path | None, typer.Option(help=f"{_DATA_HELP} to train on; the two below are cut from it where not given.")
    ] = None,
    validation_data: Annotated[Path | None, typer.Option(help=f"{_DATA_HELP} to choose by, and to check every version with.")] = None,
    test_data: Annotated[Path | None, typer.Option(help=f"{_DATA_HELP} to report on.")] = None,
    text_column: Annotated[str, typer.Option(help="Column that holds the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column that holds the label.")] = "label",
    labels: Annotated[
        str | None, typer.Option(help="The labels, with commas between; the model's own by default.", metavar="A,B,…")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Passes over the task data at most; 0 serves the model as it is.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=8, help="Longest input in tokens; longer texts are cut.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="What is trained, for good: all, no-embeddings (the default), last-N layers, head or lora-R.")
    ] = None,
) -> None:
    """Make keys, task data and version 1: of an own model and own data, or of the demo's."""
    from rich.console import Console

    from liveloop.private import write_privately
    from liveloop.settings import load_settings

    write_privately()
    settings = load_settings(data=data, scope=scope)
    own = [name for name, value in {"--labels": labels, "--epochs": epochs, "--max-tokens": max_tokens}.items() if value is not None]
    own += [name for name, value in {"--validation-data": validation_data, "--test-data": test_data}.items() if value is not None]
    if model is None and task_data is None:
        if own:
            raise Misconfigured(f"{own[0]} goes with an own model or own data: give --model or --task-data too")
        prepare_demo(settings, Console())
    else:
        from services.commands.own_model import Request, prepare

        request = Request(
            model=model,
            task_data=task_data,
            validation_data=validation_data,
            test_data=test_data,
            text_column=text_column,
            label_column=label_column,
            labels=[label.strip() for label in labels.split(",")] if labels is not None else None,
            epochs=epochs,
            max_tokens=max_tokens,
        )
        prepare(settings, request, Console())


def prepare_demo(settings: Settings, console: Console) -> None:
    """Initialise the data folder with the demo's model, warm-started on tweets; both are fetched where they are not there yet.

    Raises:
        Misconfigured: the folder is initialised already or cannot be written, or the download failed.
    """
    from services.commands import demo_model

    demo_model.prepare_demo(settings, console)
