"""The demo's figures as a picture. Knows matplotlib and the record, nothing of services."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.commands.demo_record import Estimate, Record
from services.commands.demo_view import SHORT, WINDOW


def write_plot(path: Path, record: Record, rows: Sequence[tuple[str, Estimate, Estimate, Estimate]]) -> None:
    """Write a PNG: the curves while the thumbs came, and the accuracy on held-out texts before and after."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    curves, bars = figure.subplots(1, 2, width_ratios=[2, 1])
    for curve, color, label in zip(record.curves(WINDOW), ("tab:green", "tab:orange"), ("the loop", "version 1, frozen"), strict=True):
        curves.plot(range(SHORT, len(curve)), [100 * share for share in curve[SHORT:]], color=color, label=label)
    curves.set(xlabel="movie reviews shown", ylabel=f"right answers, % of the last {WINDOW}")
    curves.legend()
    for number, (_, before, after, _) in enumerate(rows):
        for place, found, color, label in ((-0.2, before, "tab:orange", "before"), (0.2, after, "tab:green", "after")):
            error = 100 * (found.high - found.value)
            bars.bar(number + place, 100 * found.value, 0.36, yerr=error, color=color, capsize=4, label=label if number == 0 else None)
    bars.set_xticks(range(len(rows)), [name for name, *_ in rows])
    bars.set(ylabel="right answers on held-out texts, %", ylim=(50, 100))
    bars.legend(loc="lower right", framealpha=0.9)
    figure.savefig(path, dpi=120)
