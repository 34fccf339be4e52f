"""`liveloop bench learning`: which runs the table has, made where they are not there yet. What they come to, learning_table.py knows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from services.commands.bench.finished import once
from services.commands.bench.learning_run import ARMS, Curve, Told, frozen, offline, online
from services.commands.bench.learning_table import print_table, summary
from services.commands.bench.subjects import subject

_CHECKPOINTS = {
    "movie": (500, 1000, 1500, 2000, 2500, 3000, 3500, 4000),
    "tri": (500, 1000, 2000, 3000, 4000),
    "drift": (500, 1000, 1500, 2000),
    "news": (100, 200, 400, 700, 1000, 1400),
}
_OBJECTIVES = ("complementary", "cross_entropy", "kl", "kto", "bco", "policy_gradient")
_NO_TASK_ROWS = "no task rows"
_SCOPES = ("all", "last-2", "last-1", "head", "lora-8")


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    line: str
    arm: str
    seed: int
    checkpoints: tuple[int, ...]
    variant: str = ""  # what is set other than by default, for people
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """For people."""
        return " ".join(part for part in (self.line, self.variant, self.arm, f"seed {self.seed}") if part)


def bench_learning(settings: Settings, *, seeds: int, full: bool, line: str, as_json: bool, console: Console) -> None:
    """Make the runs that are missing, and print the table. Raises Misconfigured."""
    if line and line not in _CHECKPOINTS:
        raise Misconfigured(f"there is no line {line!r}; there are {', '.join(_CHECKPOINTS)}")
    torch.set_num_threads(settings.learner_threads or os.cpu_count() or 1)
    jobs = _jobs(seeds, full=full, line=line)
    found = run_all(settings, jobs, console)
    if as_json:
        print(json.dumps(summary(found)))  # noqa: T201  one line for a machine
    else:
        print_table(found, console)


def run_all(settings: Settings, jobs: Sequence[Job], console: Console) -> list[tuple[Job, Curve]]:
    """The result of each job; one that was done before with the same code, data and settings is taken from the cache."""
    done = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=1) as bar:
        for number, job in enumerate(jobs, start=1):
            task = bar.add_task(f"{number} of {len(jobs)}: {job.words}", total=1.0)

            def show(share: float, words: str, task: Any = task, begun: str = f"{number} of {len(jobs)}: {job.words}") -> None:
                bar.update(task, completed=share, description=f"{begun}, {words}")

            done.append((job, _run(settings.model_copy(update=job.changes), job, console, show)))
            bar.remove_task(task)
    return done


def _jobs(seeds: int, *, full: bool, line: str) -> list[Job]:
    """The short form where neither the full one nor a line is asked for: thumbs beside labels, K = 2 up to 2,000 and K = 5."""
    every = range(seeds)
    if not full and not line:
        short = {"movie": _CHECKPOINTS["movie"][:4], "news": _CHECKPOINTS["news"]}
        return [Job(name, arm, seed, at) for name, at in short.items() for arm in ("frozen", "thumbs", "labels") for seed in every]
    jobs = [Job(name, arm, seed, at) for name, at in _CHECKPOINTS.items() for arm in ARMS if arm in _arms(name) for seed in every]
    if full:
        at = _CHECKPOINTS["movie"][:4]
        jobs += [Job("movie", "thumbs", seed, at, one, {"objective": one}) for one in _OBJECTIVES for seed in every]
        jobs += [Job("movie", "thumbs", seed, at, one, {"scope": one}) for one in _SCOPES for seed in every]
        jobs += [Job("movie", "thumbs", seed, at, "kl_weight 0.3", {"kl_weight": 0.3}) for seed in every]
        jobs += [Job("movie", "thumbs", seed, at, _NO_TASK_ROWS) for seed in every]
    return [job for job in jobs if not line or job.line == line]


def _arms(line: str) -> tuple[str, ...]:
    return ("frozen", "thumbs") if line == "drift" else ARMS


def _run(settings: Settings, job: Job, console: Console, show: Told) -> Curve:
    def make() -> dict[str, Any]:
        taught = subject(job.line, settings, job.seed, console)
        if job.variant == _NO_TASK_ROWS:
            taught = replace(taught, task_data=replace(taught.task_data, train=[]))
        if job.arm == "frozen":
            return asdict(frozen(taught))
        if job.arm == "offline":
            return asdict(offline(settings, taught, job.seed, job.checkpoints[-1], show))
        return asdict(online(settings, taught, job.arm, job.seed, job.checkpoints, show))

    return Curve(**once(settings, "bench-learning", asdict(job), make, console))
