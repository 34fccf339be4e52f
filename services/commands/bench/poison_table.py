"""What attacks cost with each defence and without: accuracy, points lost, and the lines to meet. Runs nothing.

Points are lost to the clean run with the same defence: what a defence costs when nobody means harm stands in the rows of that run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from services.commands.bench.poison_run import Damage

_LINES = {"flips-10": (0.015, 0.005), "push-20": (0.025, 0.005), "push-40": (None, 0.03)}
"""Points lost with the default defences: at the most, and the aim; the third only has to stay above the frozen start."""
_BACK = 0.01
"""Points from the clean run at which a burst is forgotten."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run."""

    attack: str
    defence: str
    seed: int
    judgements: int


def damage(runs: Sequence[tuple[Cell, Damage]]) -> dict[str, Any]:
    """Means of the seeds by attack and defence, and points lost to the clean run with the same defence, where there is one."""
    pairs = list(dict.fromkeys((cell.attack, cell.defence) for cell, _ in runs))
    rows = [_row(attack, defence, runs) for attack, defence in pairs]
    clean = {row["defence"]: row for row in rows if row["attack"] == "clean"}
    for row in rows:
        beside = clean.get(row["defence"]) or clean.get("none")
        lost = [before - now for before, now in zip(beside["accuracy"], row["accuracy"], strict=True)] if beside else []
        row["lost"] = lost
        row["lost_at_end"] = lost[-1] if lost else None
        row["back_after"] = _back_after(row, lost) if row["attack"].startswith("burst") and lost else None
    return {"cells": rows, "lines": [line for row in rows if (line := _line(row))]}


def _row(attack: str, defence: str, runs: Sequence[tuple[Cell, Damage]]) -> dict[str, Any]:
    found = [one for cell, one in runs if (cell.attack, cell.defence) == (attack, defence)]
    streamed = [[point for point in one.points if "after" not in point] for one in found]
    return {
        "attack": attack,
        "defence": defence,
        "seeds": len(found),
        "judged": [point["judged"] for point in streamed[0]],
        "accuracy": [fmean(point["new"] for point in points) for points in zip(*streamed, strict=True)],
        "rested": fmean(one.points[-1]["new"] for one in found),
        "old": [fmean(one.points[place]["old"] for one in found) for place in (0, -1)],
        "weight": fmean(one.weight for one in found),
        "attackers": fmean(one.attack for one in found),
        "set_aside": fmean(one.set_aside for one in found),
        "rollbacks": fmean(one.rollbacks for one in found),
        "success": _mean([one.success for one in found]),
        "success_without": _mean([one.success_without for one in found]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _back_after(row: dict[str, Any], lost: Sequence[float]) -> int | None:
    """Judgements after the third quarter at which no more than a point is missing; None: at none that was looked at."""
    ends = row["judged"][-1] * 3 // 4
    return next((judged - ends for judged, points in zip(row["judged"], lost, strict=True) if judged >= ends and points <= _BACK), None)


def _line(row: dict[str, Any]) -> dict[str, Any] | None:
    if row["defence"] != "default" or row["attack"] not in _LINES or row["lost_at_end"] is None:
        return None
    least, aim = _LINES[row["attack"]]
    met = row["accuracy"][-1] > row["accuracy"][0] if least is None else row["lost_at_end"] <= least
    return {"line": f"{row['attack']}: points lost, default defences", "value": row["lost_at_end"], "least": least, "aim": aim, "met": met}


def print_damage(found: dict[str, Any], console: Console) -> None:
    """For people."""
    rows = found["cells"]
    judged = rows[0]["judged"]
    columns = ("attack", "defence", *(f"{count:,}" for count in judged), "rested", "lost", "old", "attackers' weight", "set aside")
    table = Table(*columns, title="liveloop bench poison: per cent right after so many judgements")
    for row in rows:
        lost = "" if row["lost_at_end"] is None else f"{100 * row['lost_at_end']:.1f}"
        accuracy = [f"{100 * one:.1f}" for one in (*row["accuracy"], row["rested"])]
        old = f"{100 * row['old'][0]:.1f} → {100 * row['old'][1]:.1f}"
        table.add_row(row["attack"], row["defence"], *accuracy, lost, old, f"{100 * row['weight']:.1f} %", f"{row['set_aside']:.0f}")
    console.print(table)
    for row in rows:
        if row["success"] is not None:
            console.print(
                f"{row['attack']}, {row['defence']}: of held-out texts of another label {100 * row['success']:.1f} % are answered as the "
                f"attackers want with their phrase, {100 * row['success_without']:.1f} % without"
            )
        if row["attack"].startswith("burst") and row["lost"]:
            back = "not by the end" if row["back_after"] is None else f"after {row['back_after']} judgements"
            console.print(f"{row['attack']}, {row['defence']}: within a point of the clean run {back}")
    for line in found["lines"]:
        colour = "green" if line["met"] else "red"
        least = "above the frozen start" if line["least"] is None else f"{100 * line['least']:.1f}"
        console.print(f"{line['line']}: [{colour}]{100 * line['value']:.1f}[/] (at most {least}, aim {100 * line['aim']:.1f})")
