"""What the runs of the learning table come to: accuracy by judgements, shares of what true labels gain, lines to meet. Runs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from services.commands.bench.learning_run import Curve

if TYPE_CHECKING:
    from services.commands.bench.learning import Job

Runs = Sequence[tuple["Job", Curve]]

_NEW = {"movie": "movieReview", "tri": "movieReview", "drift": "movieReview", "news": "news"}
"""The test set that a line is about."""
_TESTS = {"news": 700}
_TEST = 1000
"""Held-out texts of a test set."""
_SHARES = {"movie": (90, 100), "tri": (80, 95), "news": (90, 99)}
"""Per cent of what true labels gain online: at least, and the aim."""


def summary(runs: Runs) -> dict[str, Any]:
    """Everything, for a machine."""
    return {"curves": [_curve(line, variant, arm, runs) for line, variant, arm in _kinds(runs)], "lines": _lines(runs)}


def print_table(runs: Runs, console: Console) -> None:
    """For people: a table of accuracies for each line, then the lines to meet."""
    for line in dict.fromkeys(job.line for job, _ in runs):
        console.print(_accuracies(line, [run for run in runs if run[0].line == line]))
    table = Table("line", "measured", "at least", "aim", title="lines to meet")
    for found in _lines(runs):
        colour = "green" if found["met"] else "red"
        table.add_row(found["line"], f"[{colour}]{found['value']:.1f}[/]", f"{found['least']:g}", f"{found['aim']:g}")
    if table.row_count:
        console.print(table)


def _accuracies(line: str, runs: Runs) -> Table:
    judged = sorted({point["judged"] for _, curve in runs for point in curve.points if _NEW[line] in point})
    columns = ["per cent right", *(f"{count:,}" for count in judged), "rested", "old domain", "± 95 %", "to 50 %", "to 80 %"]
    table = Table(*columns, title=f"liveloop bench learning: {line}")
    goals = [_curve(line, variant, arm, runs)["accuracy"] for _, variant, arm in _kinds(runs) if arm == "labels" and not variant]
    for _, variant, arm in _kinds(runs):
        found = _curve(line, variant, arm, runs)
        cells = [_percent(found["accuracy"].get(count)) for count in judged]
        old = f"{_percent(found['old'][0])} → {_percent(found['old'][-1])}" if found["old"] else ""
        reached = [_reached(found["accuracy"], goals[0], part) for part in (0.5, 0.8)] if goals else ["", ""]
        name, interval = " ".join((variant, arm)).strip(), f"{100 * found['interval']:.1f}"
        table.add_row(name, *cells, _percent(found["rested"]), old, interval, *reached)
    return table


def _reached(accuracy: dict[int, float], goal: dict[int, float], part: float) -> str:
    """After how many judgements this part of what true labels gain in all is gained, between evaluations in a straight line."""
    wanted = goal[0] + part * (goal[max(goal)] - goal[0])
    for (before, low), (after, high) in pairwise(accuracy.items()):
        if high >= wanted > low:
            return f"{before + (after - before) * (wanted - low) / (high - low):,.0f}"
    return "" if len(accuracy) == 1 else "never"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _kinds(runs: Runs) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys((job.line, job.variant, job.arm) for job, _ in runs))


def _curve(line: str, variant: str, arm: str, runs: Runs) -> dict[str, Any]:
    """The mean of the seeds."""
    curves = [curve for job, curve in runs if (job.line, job.variant, job.arm) == (line, variant, arm)]
    new, streamed = _NEW[line], [[point for point in curve.points if point.get("after") != "rest"] for curve in curves]
    judged = sorted({point["judged"] for points in streamed for point in points if new in point})
    old = next((name for name in curves[0].points[0] if name not in ("judged", "after", new)), "")
    mean = {
        count: fmean(point[new] for points in streamed for point in points if point["judged"] == count and new in point) for count in judged
    }
    last = mean[judged[-1]]
    return {
        "line": line,
        "variant": variant,
        "arm": arm,
        "seeds": len(curves),
        "accuracy": mean,
        "rested": _mean(point.get(new) for curve in curves for point in curve.points if point.get("after") == "rest"),
        "old": [fmean(one) for one in zip(*([point[old] for point in curve.points if old in point] for curve in curves), strict=True)],
        "drop": fmean(_drop([point[new] for point in points if new in point]) for points in streamed),
        "forgot": _mean(_forgot(curve) for curve in curves),
        "progressive": _mean(curve.progressive for curve in curves),
        "decisions": [curve.decisions for curve in curves],
        "interval": 1.96 * math.sqrt(last * (1 - last) / (_TESTS.get(line, _TEST) * len(curves))),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def _drop(values: Sequence[float]) -> float:
    """The largest fall from one evaluation to the next."""
    return max((0.0, *(before - after for before, after in pairwise(values))))


def _forgot(curve: Curve) -> float | None:
    """What the first new domain lost from its own end to the end of the last stream."""
    names = list(dict.fromkeys(point["after"] for point in curve.points if point.get("after", "rest") != "rest"))
    ends = [[point for point in curve.points if point.get("after") == name][-1] for name in names]
    return ends[0][names[0]] - ends[-1][names[0]] if len(names) > 1 else None


def _lines(runs: Runs) -> list[dict[str, Any]]:
    """The lines that these runs can speak of, in points or per cent."""
    curves = {(line, arm): _curve(line, "", arm, runs) for line, variant, arm in _kinds(runs) if not variant}
    found: list[dict[str, Any]] = []

    def add(line: str, value: float | None, least: float, aim: float, *, most: bool = False) -> None:
        if value is not None:
            met = value <= least if most else value >= least
            found.append({"line": line, "value": round(100 * value, 1), "least": 100 * least, "aim": 100 * aim, "met": met})

    for (line, arm), curve in curves.items():
        if arm == "thumbs":
            _add_thumbs(add, line, curve, curves)
    return found


def _add_thumbs(add: Any, line: str, curve: dict[str, Any], curves: dict[tuple[str, str], dict[str, Any]]) -> None:
    accuracy = curve["accuracy"]
    start, last = accuracy[0], max(accuracy)
    if line == "movie":
        for count, least, aim in ((500, 0.06, 0.09), (2000, 0.11, 0.14)):
            add(f"movie: points gained from {count:,} thumbs", accuracy[count] - start, least, aim)
        add("movie: old domain lost, most", curve["old"][0] - curve["old"][-1], 0.02, 0.0, most=True)
    if line == "news":
        for count, least, aim in ((200, 0.86, 0.90), (last, 0.91, 0.935)):
            add(f"news: accuracy after {count:,} thumbs", accuracy[count], least, aim)
    if labels := curves.get((line, "labels")):
        least, aim = _SHARES[line]
        add(
            f"{line}: share of what true labels gain online at {last:,}",
            _share(accuracy[last], labels["accuracy"][last], start),
            least / 100,
            aim / 100,
        )
    if (bound := curves.get((line, "offline"))) and line == "movie":
        share = _share(curve["rested"] or accuracy[last], bound["accuracy"][max(bound["accuracy"])], start)
        add(f"movie: share of what true labels gain offline, rested at {last:,}", share, 0.85, 1.0)
    add(f"{line}: largest drop between evaluations, most", curve["drop"], 0.02, 0.01, most=True)
    add(f"{line}: first new domain lost after all, most", curve["forgot"], 0.02, 0.005, most=True)


def _share(value: float, bound: float, start: float) -> float | None:
    return (value - start) / (bound - start) if bound > start else None
