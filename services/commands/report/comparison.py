"""The chapter on before and after. Knows what was evaluated; evaluates nothing."""

from __future__ import annotations

from collections.abc import Sequence

from services.commands.report.before_after import BeforeAfter
from services.commands.report.parts import Chapter, Matrix, Table
from services.learner.evaluation import Report

_LABELS = 12
"""Labels that are shown one by one: those with the most rows."""


def comparison(found: BeforeAfter) -> Chapter:
    """The first version beside the newest: accuracy, classification report, confusion matrix."""
    head = ("set", "rows", f"version {found.before}", f"version {found.after}", "gain, points")
    accuracy = [(one.name, f"{one.rows:,}", one.before.points, one.after.points, one.gained.points) for one in found.sets]
    tables = [Table("Right answers in percent, 95 % intervals; the gain is paired by row", head, accuracy, "wide")]
    matrices: list[Matrix] = []
    for one in found.sets:
        if one.then and one.now:
            tables.append(_report(one.name, one.then, one.now))
            matrices += [_matrix(one.name, found.before, one.then), _matrix(one.name, found.after, one.now)]
    hint = f"Version {found.before} and version {found.after} answer the same rows, from which neither learnt."
    return Chapter("before-after", "Before and after", hint, tables=tables, matrices=matrices)


def _report(name: str, before: Report, after: Report) -> Table:
    lines: list[tuple[str, ...]] = []
    for place in _shown(after):
        then, now = before.labels[place], after.labels[place]
        pairs = ((then.precision, now.precision), (then.recall, now.recall), (then.f1, now.f1))
        lines.append((now.label, *(_change(*pair) for pair in pairs), f"{now.rows:,}"))
    lines.append(("mean of the labels", "", "", _change(before.macro_f1, after.macro_f1), f"{after.rows:,}"))
    return Table(f"Classification report, {name}: before → after, in percent", ("label", "precision", "recall", "F1", "rows"), lines)


def _matrix(name: str, version: int, report: Report) -> Matrix:
    shown = _shown(report)
    counts = [[report.confusion[true][answer] for answer in shown] for true in shown]
    return Matrix(f"{name}, version {version}", [report.labels[place].label for place in shown], counts)


def _shown(report: Report) -> Sequence[int]:
    """The places of the labels that are shown, in the model's order."""
    commonest = sorted(range(len(report.labels)), key=lambda place: -report.labels[place].rows)
    return sorted(commonest[:_LABELS])


def _change(before: float, after: float) -> str:
    return f"{100 * before:.1f} → {100 * after:.1f}"
