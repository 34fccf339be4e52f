"""Progress, and tables of figures with their ratios and targets. Knows what was measured by name; measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """Shows what is measured now: the function inside takes it in words. Redrawn once a second, so that it costs nothing."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=1) as bar:
        task = bar.add_task("", total=None)
        yield lambda words: bar.update(task, description=words)


def print_weights(found: dict[str, Any], console: Console) -> None:
    """What `liveloop bench weights` found."""
    console.print(_patches(found["patches"]))
    console.print(
        "make: cast, diff, encode, digest and publish a version, into a folder; apply: decode, verify and apply it. Milliseconds, medians."
    )
    console.print(_deliveries(list(found["stores"].values())))


def print_swap(found: dict[str, Any], console: Console) -> None:
    """What `liveloop bench swap` found."""
    table = Table("predict, ms", *found["p99_ms"], title="liveloop bench swap")
    for name in ("p50_ms", "p99_ms"):
        table.add_row(name.removesuffix("_ms"), *(f"{value:.1f}" for value in found[name].values()))
    console.print(table)
    console.print(
        f"p99 with updates / without: {_judged(found['ratio'], most=1.3)}; with the same updates taken by a process that serves nobody "
        f"(the floor on this machine): {found['floor_ratio']:.2f}"
    )
    console.print(
        f"{found['versions_per_second']} versions a second in the {found['store']} store; {found['rate']:.0f} requests a second arrive at "
        f"random, 60 % of what one pod answers; {found['requests']:,} asked, {_judged(found['failed'], most=0)} failed, "
        f"{_judged(found['unknown_versions'], most=0)} named a version that never was"
    )


def _patches(rows: list[dict[str, Any]]) -> Table:
    columns = (
        "lr",
        "scope",
        "changed",
        "patch, bytes",
        "/ floor ≤ 1.15",
        "/ PULSE ≤ 0.9",
        "/ XOR ≤ 0.6",
        "fp32 /",
        "make ≤ 60",
        "apply ≤ 35",
    )
    table = Table(*columns, title="patches after real optimiser steps")
    for row in rows:
        size = row["patch_bytes"]
        table.add_row(
            f"{row['lr']:.0e}",
            row["scope"],
            f"{row['changed'] / row['trainable']:.1%}",
            f"{size:,}",
            _judged(size / row["floor_bytes"], most=1.15),
            _judged(size / row["pulse_bytes"], most=0.9),
            _judged(size / row["xor_zstd_bytes"], most=0.6),
            f"{row['full_fp32_bytes'] / size:.0f}",
            _judged(row["diff_encode_ms"] + row["publish_ms"], most=60, digits=0),
            _judged(row["apply_ms"], most=35, digits=0),
        )
    return table


def _deliveries(stores: list[dict[str, Any]]) -> Table:
    table = Table(
        "store",
        "pods",
        "publish to flip",
        "median pod",
        "full push",
        "ratio ≥ 3, 4",
        "in 4 MiB chunks",
        title="from publish to flip, ms, p50",
    )
    for found in stores:
        for count, flip in found["publish_to_flip_ms"].items():
            push = found["full_push_ms"][count]
            table.add_row(
                found["store"],
                count,
                _judged(flip, most=120 if count == "1" else 240, digits=0),
                f"{found['publish_to_flip_median_pod_ms'][count]['p50']:.0f}",
                f"{push:.0f}",
                _judged(push / flip, least=3 if count == "1" else 4),
                f"{found['full_push_best_ms'][count]:.0f}",
            )
    return table


def _judged(value: float, *, most: float = float("inf"), least: float = 0.0, digits: int = 2) -> str:
    """Green within the target, red outside."""
    text = f"{value:.{0 if isinstance(value, int) else digits}f}"
    return f"[green]{text}[/]" if least <= value <= most else f"[red]{text}[/]"
