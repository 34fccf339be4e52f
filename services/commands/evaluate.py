"""`liveloop evaluate`: how good one version is, beside version 1. Knows the data folder and the terminal; the figures are the learner's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from liveloop.errors import NotFound, NotNow, WeightsRefused
from services.commands import Data

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress

    from liveloop.settings import Settings
    from services.learner.evaluation import Answerer, Judged, Tested
    from services.learner.logged import Logged
    from services.learner.off_policy import OffPolicy
    from services.learner.reproduce import KeptVersions

_HELD_OUT_ROWS = 5000
"""Newest held-out judgements that are answered: a standard error below a point."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found out about one version."""

    version: int
    test: Tested | None  # none: there are no test rows
    held_out: Judged | None  # none: nobody judged a held-out answer
    off_policy: OffPolicy | None  # none: not asked for, or refused
    refused: str  # why the log cannot tell; empty where it can, or was not asked


def evaluate(
    version: Annotated[int, typer.Argument(min=1, help="Its number, as in `liveloop versions`.")],
    *,
    data: Data = None,
    off_policy: Annotated[
        bool, typer.Option("--off-policy", help="Also estimate what it would have earned, from answers that were left to chance.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """How good a version is, beside version 1: on test rows and held-out feedback. 0: done, 1: the log cannot tell off-policy."""
    from rich.console import Console
    from rich.progress import Progress

    from liveloop.settings import load_settings
    from services.commands.evaluate_tables import show

    settings = load_settings(data=data)
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        found = evaluated(settings, version, off_policy=off_policy, bar=bar)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        show(found, Console())
    raise typer.Exit(1 if found.refused else 0)


def evaluated(settings: Settings, version: int, *, off_policy: bool, bar: Progress) -> Evaluation:
    """Evaluate a version beside a running loop, or none: nothing is written.

    Raises:
        NotFound: there is no such version, or nothing to evaluate it on.
        NotNow: its weights, or version 1's, are not kept any more.
        Misconfigured: the data folder does not fit.
    """
    import torch

    from services.learner.evaluation import Answerer, judged, tested
    from services.learner.logged import judges, logged
    from services.learner.materials import choose_device, load_materials, read_test
    from services.learner.micro_batch import MicroBatches
    from services.learner.reproduce import KeptVersions, ReadJournal

    device = choose_device(settings)
    materials, journal = load_materials(settings, device), ReadJournal(settings.data / "learner.db")
    torch.set_num_threads(materials.recipe.threads)
    test = read_test(settings.data / "task", materials.task.labels)
    held_out = MicroBatches(journal.db, [], materials.task.labels).held_out(_HELD_OUT_ROWS)
    by = judges(journal.db, held_out)
    log = logged(journal.db, version) if off_policy else []
    if not (test or held_out or off_policy):
        raise NotFound(f"{settings.data / 'task' / 'test.jsonl'} has no rows, and no held-out answer was judged: nothing to evaluate on")
    kept = KeptVersions(materials.store, materials.key.public_key(), journal, materials.layout.total)
    task = bar.add_task(f"evaluating version {version}", total=2 * (len(test) + len(held_out)) + len(log))
    ours, first = (
        Answerer(materials.task, materials.layout, _bits(kept, one), device, lambda texts: bar.advance(task, texts)) for one in (version, 1)
    )
    results, refused = _off_policy(ours, log) if off_policy else (None, "")
    return Evaluation(version, tested(test, ours, first), judged(list(held_out.values()), by, ours, first), results, refused)


def _bits(kept: KeptVersions, version: int) -> np.ndarray:
    try:
        return kept.load(version)
    except WeightsRefused as error:
        raise NotNow(f"the weights of version {version} are not kept any more ({error.reason}); `liveloop pin` keeps a version") from error


def _off_policy(ours: Answerer, log: Sequence[Logged]) -> tuple[OffPolicy | None, str]:
    """The estimates, or why there are none."""
    from services.learner.logged import rounds
    from services.learner.off_policy import estimate

    try:
        return estimate(rounds(log, ours)), ""
    except NotNow as refusal:
        return None, refusal.reason
