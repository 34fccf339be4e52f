"""What the demo adds to the report: its curves, and both domains before and after. Knows the record, nothing of services."""

from __future__ import annotations

from collections.abc import Sequence

from services.commands.demo_record import Estimate, Record
from services.commands.demo_view import SHORT, WINDOW
from services.commands.report import plots
from services.commands.report.parts import Chapter, Figure, Table


def demo_chapter(record: Record, rows: Sequence[tuple[str, Estimate, Estimate, Estimate]]) -> Chapter:
    """`rows`: the name of a domain; accuracy before and after, and the gain."""
    found = {
        label: plots.Curve(range(SHORT, len(curve)), [100 * share for share in curve[SHORT:]])
        for label, curve in zip(("the loop", "version 1, frozen"), record.curves(WINDOW), strict=True)
    }
    curves = plots.curves(found, name="demo", x="movie reviews shown", y=f"right answers, % of the last {WINDOW}")
    accuracy = [(name, *map(_points, estimates)) for name, *estimates in rows]
    return Chapter(
        "demo",
        "The demo",
        "Real raters' thumbs taught a model that had only seen tweets about movies.",
        [Figure("Right answers while the thumbs came.", curves)],
        [Table("Right answers on held-out texts, %; 95 % intervals", ("domain", "before", "after", "gain, points"), accuracy)],
    )


def _points(found: Estimate) -> str:
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
