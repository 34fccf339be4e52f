"""Prints when the pace of learning changes on simulated streams: false alarms and delays of both detectors. Knows no model, no journal.

.venv/bin/python -m benchmarks.pace_simulation [--streams 20]
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator
from statistics import fmean, median

from services.learner.pacing import Pacing, PageHinkley, Scores

Curve = Callable[[int], float]
"""The true accuracy after so many feedbacks."""
_TASK_ROWS, _NEWEST, _HELD_OUT = 300, 500, 10
"""Rows of the validation data; newest held-out feedbacks in an evaluation, one of ten is held out."""
_EVALUATE_EVERY = 100
"""Feedbacks from one evaluation to the next."""


def constant(accuracy: float) -> Curve:
    """Nothing changes."""
    return lambda _: accuracy


def learning(start: float, end: float, scale: float) -> Curve:
    """Towards `end`, 63 % of the way after `scale` feedbacks."""
    return lambda at: end - (end - start) * math.exp(-at / scale)


def dropping(before: Curve, at: int, by: float) -> Curve:
    """`before`, and from `at` on so much less."""
    return lambda place: before(place) - (by if place >= at else 0.0)


def alarms(curve: Curve, length: int, rng: random.Random) -> list[int]:
    """Where the drift detector sounds on judged answers."""
    detector = PageHinkley()
    return [at for at in range(length) if detector.add(float(rng.random() >= curve(at)))]


def delays(curve: Curve, at: int, streams: int) -> tuple[list[int], int]:
    """Judgements from a change at `at` to the first alarm behind it, within 4,000, and how many streams had none."""
    found = [[one - at for one in alarms(curve, at + 4_000, random.Random(seed)) if one >= at] for seed in range(streams)]
    return [one[0] for one in found if one], sum(not one for one in found)


def evaluations(curve: Curve, length: int, rng: random.Random) -> Iterator[Scores]:
    """Validation rows are the same ones every time, each with a difficulty of its own; of held-out feedback the newest."""
    difficulty = [rng.random() for _ in range(_TASK_ROWS)]
    held_out: list[float] = []
    for at in range(0, length, _EVALUATE_EVERY):
        held_out += [rng.random() for _ in range(_EVALUATE_EVERY // _HELD_OUT)]
        found = {"task": difficulty, "feedback": held_out[-_NEWEST:]}
        yield Scores(
            at,
            {split: (fmean(_is_right(curve(at), one, rng) for one in rows), len(rows)) for split, rows in found.items()},
        )


def _is_right(accuracy: float, difficulty: float, rng: random.Random) -> bool:
    """A version answers a row as its difficulty says, but for a little luck of its own."""
    return difficulty + rng.gauss(0.0, 0.1) < accuracy


def rates(curve: Curve, length: int, every: int, rng: random.Random) -> list[float]:
    """The factor after each `every` feedbacks; evaluations only."""
    pacing, found = Pacing(), list[float]()
    for scores in evaluations(curve, length + 1, rng):
        pacing.evaluated(scores)
        if scores.at and scores.at % every == 0:
            found.append(pacing.rate)
    return found


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=20)
    streams = parser.parse_args().streams
    print("| judged answers | false alarms in 10,000 |\n|---|---|")
    for name, curve in (
        ("50 % right, always", constant(0.5)),
        ("70 % right, always", constant(0.7)),
        ("90 % right, always", constant(0.9)),
        ("70 to 83 % right, learning", learning(0.70, 0.83, 1000.0)),
    ):
        print(f"| {name} | {fmean(len(alarms(curve, 10_000, random.Random(seed))) for seed in range(streams)):.2f} |")
    print("\n| change after 3,000 | judgements until the alarm, median (worst) | not within 4,000 |\n|---|---|---|")
    for before in (0.9, 0.8, 0.7):
        for by in (0.1, 0.2, 0.3):
            found, missed = delays(dropping(constant(before), 3_000, by), 3_000, streams)
            told = f"{median(found):.0f} ({max(found)})" if found else "-"
            print(f"| {100 * before:.0f} to {100 * (before - by):.0f} % right | {told} | {missed} of {streams} |")
    print("\n| held-out accuracy | mean factor after 4,000 | 8,000 | 12,000 | 16,000 |\n|---|---|---|---|---|")
    for name, curve in (
        ("68 to 83 %, quick", learning(0.68, 0.83, 800.0)),
        ("68 to 83 %, slow", learning(0.68, 0.83, 4_000.0)),
        ("68 to 90 %, 1 point a thousand", lambda at: min(0.90, 0.68 + at / 100_000)),
        ("80 %, always", constant(0.8)),
        ("80 %, and 70 % after 10,000", dropping(constant(0.8), 10_000, 0.1)),
    ):
        found = [rates(curve, 16_000, 4_000, random.Random(seed)) for seed in range(streams)]
        print(f"| {name} | {' | '.join(f'{fmean(column):.2f}' for column in zip(*found, strict=True))} |")


if __name__ == "__main__":
    main()
