"""How an evaluation looks in a terminal. Knows what was found by name; computes nothing."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from services.commands.evaluate import Evaluation
from services.learner.evaluation import Judged, Report, Tested
from services.learner.off_policy import OffPolicy


def show(found: Evaluation, console: Console) -> None:
    """All of it; points are of a hundred, intervals of 95 %."""
    if found.test is not None:
        console.print(_accuracies(found.version, found.test, found.held_out))
        console.print(_labels(found.version, found.test))
        console.print(_confusion(found.version, found.test.version))
    elif found.held_out is not None:
        console.print(_accuracies(found.version, None, found.held_out))
    if found.off_policy is not None:
        console.print(_off_policy(found.version, found.off_policy))
        console.print(_from(found.off_policy), soft_wrap=True)
    if found.refused:
        console.print(f"Off-policy estimates are refused: {found.refused}.", soft_wrap=True)


def _accuracies(version: int, test: Tested | None, held_out: Judged | None) -> Table:
    table = Table("right answers, %", f"version {version}", "version 1", "gained, points", "rows")
    if test is not None:
        ours, first = test.version, test.first
        table.add_row("test rows", ours.accuracy.points, first.accuracy.points, test.gained.points, f"{ours.rows:,}")
        table.add_row("macro F1", f"{100 * ours.macro_f1:.1f}", f"{100 * first.macro_f1:.1f}", "", "")
    if held_out is not None:
        columns = (held_out.accuracy.points, held_out.first_accuracy.points, held_out.gained.points, f"{held_out.judgements:,}")
        table.add_row("held-out feedback", *columns)
    return table


def _labels(version: int, test: Tested) -> Table:
    table = Table("label", "rows", "precision", "recall", "F1", "recall of version 1", title=f"version {version} by label, test rows")
    for ours, first in zip(test.version.labels, test.first.labels, strict=True):
        percent = (f"{100 * value:.1f}" for value in (ours.precision, ours.recall, ours.f1, first.recall))
        table.add_row(ours.label, f"{ours.rows:,}", *percent)
    return table


def _confusion(version: int, report: Report) -> Table:
    labels = [one.label for one in report.labels]
    table = Table("it is", *(f"answered {label}" for label in labels), title=f"version {version}, what is taken for what")
    for label, row in zip(labels, report.confusion, strict=True):
        table.add_row(label, *map(str, row))
    return table


def _off_policy(version: int, found: OffPolicy) -> Table:
    table = Table("estimate", "reward, %", title=f"version {version}, had it answered")
    for name, one in (("IPS", found.ips), ("SNIPS", found.snips), ("doubly robust", found.doubly_robust)):
        table.add_row(name, one.points)
    table.add_row("what was answered", found.logged.points)
    return table


def _from(found: OffPolicy) -> str:
    left_out = f"; {found.deterministic:,} others were not left to chance" if found.deterministic else ""
    return f"From {found.rounds:,} judged answers by {found.judges:,} judges, effective sample size {found.effective:,.0f}{left_out}."
