"""`liveloop bench poison`: attacks on the feedback, and defences against them. Runs what is missing; poison_table.py knows the figures.

The cells that are run where none is named are those that say something: every attack with no defence and with the default ones, and each
defence alone against the attacks that it is for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from services.commands.bench.finished import once
from services.commands.bench.poison_run import ATTACKS, DEFENCES, Damage, as_json, attacked
from services.commands.bench.poison_table import Cell, damage, print_damage
from services.commands.bench.subjects import subject

_ALONE = {
    "clean": ("cap", "trust", "burst", "guard"),
    "push-20": ("cap", "trust", "burst", "guard"),
    "push-40": ("cap", "trust"),
    "trigger": ("cap",),
    "burst-30": ("cap", "trust", "burst", "guard"),
}


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    seeds: int = 1
    judgements: int = 2000
    attack: str = ""  # empty: all
    defence: str = ""


def bench_poison(settings: Settings, extent: Extent, *, as_json: bool, console: Console) -> None:
    """Make the runs that are missing, and print the damage. Raises Misconfigured for an attack or a defence that there is not."""
    cells = cells_of(extent)
    torch.set_num_threads(settings.learner_threads or os.cpu_count() or 1)
    found = damage(_run_all(settings, cells, console))
    if as_json:
        print(json.dumps(found))  # noqa: T201  one line for a machine
    else:
        print_damage(found, console)


def cells_of(extent: Extent) -> list[Cell]:
    """The runs; a named attack with every defence that says something, a named defence with every attack, or both. Raises Misconfigured."""
    for name, known in ((extent.attack, ATTACKS), (extent.defence, DEFENCES)):
        if name and name not in known:
            raise Misconfigured(f"there is no {name!r}; there are {', '.join(known)}")
    pairs = [(attack, defence) for attack in ATTACKS for defence in DEFENCES if _is_asked(extent, attack, defence)]
    return [Cell(attack, defence, seed, extent.judgements) for attack, defence in pairs for seed in range(extent.seeds)]


def _is_asked(extent: Extent, attack: str, defence: str) -> bool:
    if extent.attack and extent.defence:
        return (attack, defence) == (extent.attack, extent.defence)
    said = extent.defence == defence or defence in ("none", "default", *_ALONE.get(attack, ()))
    return said and extent.attack in ("", attack) and extent.defence in ("", defence)


def _run_all(settings: Settings, cells: Sequence[Cell], console: Console) -> list[tuple[Cell, Damage]]:
    done = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=1) as bar:
        task = bar.add_task("", total=None)
        for number, cell in enumerate(cells, start=1):
            begun = f"{number} of {len(cells)}: {cell.attack}, {cell.defence}, seed {cell.seed}"

            def show(_share: float, words: str, begun: str = begun) -> None:
                bar.update(task, description=f"{begun}, {words}")

            def make(cell: Cell = cell, show: Any = show) -> dict[str, Any]:
                taught = subject("movie", settings, cell.seed, console)
                attack, defence = ATTACKS[cell.attack], DEFENCES[cell.defence]
                return as_json(attacked(settings, taught, attack, defence, cell.seed, cell.judgements, show))

            done.append((cell, Damage(**once(settings, "bench-poison", asdict(cell), make, console))))
    return done
