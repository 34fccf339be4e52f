"""An own model, own data or both: read, trained, reported on, published. Knows how to train; knows no running service."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from liveloop.tasks.flat import narrow, widen
from liveloop.v1.weights_pb2 import ModelBundle
from services.commands.assets import demo_assets
from services.commands.initial import check_empty, publish
from services.commands.training import train_with_bar
from services.learner.pretrained import Wanted, load_pretrained
from services.learner.task_data import Row, TaskData, check_labels, check_trainable, complete, read_rows
from services.learner.warm_start import Plan, Report, evaluate, memory

_EPOCHS = 4
_COMPARED = 1000
"""Texts on which the fp32 model and the served state are compared."""


@dataclass(frozen=True, slots=True)
class Request:
    """An own model, own data or both; None: the demo's model, no such file, or the default."""

    model: str | None = None
    task_data: Path | None = None
    validation_data: Path | None = None
    test_data: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    labels: Sequence[str] | None = None
    epochs: int | None = None
    max_tokens: int | None = None


def prepare(settings: Settings, request: Request, console: Console) -> None:
    """Initialise the data folder as requested. Raises Misconfigured with one sentence."""
    check_empty(settings)
    torch.set_num_threads(settings.learner_threads or os.cpu_count() or 1)
    data = _read_data(request)
    epochs = (_EPOCHS if data.train else 0) if request.epochs is None else request.epochs
    if epochs and not data.train:
        raise Misconfigured("there is nothing to train on: give --task-data, or --epochs 0 to serve the model as it is")
    source = request.model or str(demo_assets(settings.cache, console).model)
    start = load_pretrained(
        source,
        Wanted(
            labels=request.labels,
            data_labels=[row.label for row in data.rows],
            max_tokens=request.max_tokens,
            scope=settings.scope,
        ),
    )
    data = _with_labels(data, start.bundle.labels, request)
    if not (start.head_kept or epochs):
        raise Misconfigured(f"{source} has no classification head for {', '.join(start.bundle.labels)}: give --task-data to train one")
    _say_model(start.bundle, start.head_kept, console)
    flat = start.flat
    device = _device(settings)
    if epochs:
        plan = Plan(epochs=epochs, seed=settings.seed, device=device)
        flat = train_with_bar(start.bundle, start.flat, data, plan, console).flat
    _say_quality(start.bundle, [start.flat, flat] if epochs else [flat], data.test or data.validation, device, console)
    publish(settings, start.bundle, narrow(flat), data, console)


def _read_data(request: Request) -> TaskData:
    def read(path: Path | None) -> list[Row] | None:
        return None if path is None else read_rows(path, text_column=request.text_column, label_column=request.label_column)

    train, validation, test = read(request.task_data), read(request.validation_data), read(request.test_data)
    if train is not None:
        check_trainable(train)
    return complete(train or [], validation, test)


def _with_labels(data: TaskData, labels: Sequence[str], request: Request) -> TaskData:
    first = request.task_data or request.validation_data or request.test_data
    named = {"train": first, "validation": request.validation_data or first, "test": request.test_data or first}
    return TaskData(**{name: check_labels(getattr(data, name), labels, str(path)) for name, path in named.items()})


def _device(settings: Settings) -> str:
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _say_model(bundle: ModelBundle, head_kept: bool, console: Console) -> None:
    head = "its own classification head" if head_kept else "a new classification head"
    console.print(f"{bundle.model} with {head} for {', '.join(bundle.labels)}; texts are cut at {bundle.max_tokens} tokens.")
    inference, learner = (size / 1e6 for size in memory(bundle.layout))
    console.print(
        f"Its {bundle.layout.total / 1e6:.1f} million values need {inference:,.0f} MB in inference, {learner:,.0f} MB in the learner."
    )


def _say_quality(bundle: ModelBundle, flats: Sequence[torch.Tensor], rows: Sequence[Row], device: str, console: Console) -> None:
    """Report the state before training, where there is one, and the one to be served; and how often that agrees with its original."""
    if not rows:
        console.print("There is no labelled data to say how good the model is, or how often its bf16 state agrees with it.")
        return
    with console.status(f"Evaluating on {len(rows):,} held-out texts …"):
        served = widen(narrow(flats[-1]))
        after, chosen = evaluate(bundle, served.to(device), rows)
        reports = [evaluate(bundle, flat.to(device), rows)[0] for flat in flats[:-1]] + [after]
        compared = rows[:_COMPARED]
        original = evaluate(bundle, flats[-1].to(device), compared)[1]
    console.print(_table(reports))
    agreed = sum(a == b for a, b in zip(original, chosen[: len(compared)], strict=True)) / len(compared)
    console.print(
        f"The bf16 state that is served gives the answer of the fp32 model for {100 * agreed:.1f} % of {len(compared):,} held-out texts."
    )


def _table(reports: Sequence[Report]) -> Table:
    after = reports[-1]
    names = ["before", "after"][-len(reports) :]
    table = Table("held-out texts", "support", *names, title_justify="left")
    table.add_row("accuracy", f"{after.rows:,}", *(f"{100 * report.accuracy:.1f} %" for report in reports))
    table.add_row("macro-F1", f"{after.rows:,}", *(f"{100 * report.macro_f1:.1f} %" for report in reports))
    for label, support in after.support.items():
        table.add_row(f"recall of {label}", f"{support:,}", *(f"{100 * report.recall[label]:.1f} %" for report in reports))
    return table
