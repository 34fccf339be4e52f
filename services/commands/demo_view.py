"""How a demo looks in a terminal: two curves and a few figures. Knows the record, nothing of services."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from services.commands.demo_record import Estimate, Record
from services.commands.freshness import percentile

WINDOW = 200
"""Answers over which the curves are averaged: their standard error is about 3 points."""

SHORT = 40
"""Answers before which an average says nothing."""

_WIDTH, _HEIGHT = 66, 10  # with its scale and frame it fits a terminal of 80 columns


def live_view(record: Record, target: int) -> RenderableType:
    """What is shown while the thumbs come."""
    loop, frozen = (curve[SHORT:] for curve in record.curves(WINDOW))
    freshness = percentile(record.seconds(), 0.5)
    figures = Text.assemble(
        "version ",
        (f"{record.version}", "bold"),
        " · thumbs: ",
        (f"{record.given}", "bold"),
        f" of {target} given, ",
        (f"{len(record.thumbs)}", "bold"),
        " acknowledged, ",
        (f"{record.trained}", "bold"),
        " trained · served after ",
        (f"{freshness:.1f} s" if freshness is not None else "-", "bold"),
    )
    legend = Text.assemble(
        ("● the loop ", "green"), (_percent(loop), "bold green"), ("     · version 1, frozen ", "yellow"), (_percent(frozen), "bold yellow")
    )
    title = f"Right answers on movie reviews, of the last {WINDOW}"
    return Panel(Group(_chart(loop, frozen), legend, figures), title=title, width=80)


def _chart(loop: Sequence[float], frozen: Sequence[float]) -> Text:
    """Both curves over all answers so far, a text column for each of a few answers."""
    if len(loop) < 2:
        return Text("\n" * (_HEIGHT // 2) + "the first answers are coming …".center(_WIDTH) + "\n" * (_HEIGHT // 2))
    columns = min(_WIDTH, len(loop))
    places = [round(column * (len(loop) - 1) / (columns - 1)) for column in range(columns)]
    low = min(*loop, *frozen) - 0.01
    high = max(*loop, *frozen) + 0.01
    cells = {(column, _row(frozen[place], low, high)): ("·", "yellow") for column, place in enumerate(places)}
    cells |= {(column, _row(loop[place], low, high)): ("●", "green") for column, place in enumerate(places)}
    chart = Text()
    for row in range(_HEIGHT):
        chart.append(f"{100 * (high - row * (high - low) / (_HEIGHT - 1)):5.1f} % ", style="dim")
        for column in range(columns):
            chart.append(*cells.get((column, row), (" ", "")))
        chart.append("\n")
    return chart


def _row(value: float, low: float, high: float) -> int:
    return round((high - value) / (high - low) * (_HEIGHT - 1))


def _percent(curve: Sequence[float]) -> str:
    return f"{100 * curve[-1]:.1f} %" if curve else ""


def result_table(rows: Sequence[tuple[str, Estimate, Estimate, Estimate]]) -> Table:
    """What is printed at the end: for each domain the accuracy before and after, and the gain on the same texts."""
    table = Table("held-out texts", "right before", "right after", "gain in points (95 %)")
    for name, before, after, gained in rows:
        interval = f"{100 * gained.value:+.1f} ({100 * gained.low:+.1f} to {100 * gained.high:+.1f})"
        table.add_row(name, _share(before), _share(after), interval)
    return table


def _share(found: Estimate) -> str:
    return f"{100 * found.value:.1f} % ± {100 * (found.high - found.value):.1f}"
