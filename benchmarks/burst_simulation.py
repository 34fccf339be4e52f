"""Prints what burst detection sets aside of an attack, and of honest people's feedback. Knows judges' names alone; no model, no journal.

    .venv/bin/python -m benchmarks.burst_simulation [--seeds 3]

Of 4,000 judgements the third quarter has an attack by five new accounts. The honest come at random, more active ones more often, or in
sessions: somebody comes, judges for a while and goes, a few of them at a time.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator

from services.learner.bursts import RECENT, USUAL, bursting

JUDGEMENTS, _ATTACKERS, _EVERY = 4_000, 5, 16
"""The last: judgements between two looks."""
_PEOPLE = 300
Honest = Callable[[random.Random], Iterator[bytes]]


def at_random(rng: random.Random, people: int = _PEOPLE) -> Iterator[bytes]:
    """The k-th most active judges 1 / k^0.8 as often as the most active one."""
    activity = [1 / (rank + 1) ** 0.8 for rank in range(people)]
    while True:
        yield from (b"judge %d" % one for one in rng.choices(range(people), activity, k=100))


def in_sessions(rng: random.Random, at_once: int, length: float) -> Iterator[bytes]:
    """`at_once` people judge at a time, each `length` times on average."""
    arriving = at_random(rng)
    present = [next(arriving) for _ in range(at_once)]
    while True:
        place = rng.randrange(at_once)
        yield present[place]
        if rng.random() < 1 / length:
            present[place] = next(arriving)


def set_aside(honest: Iterator[bytes], share: float, rng: random.Random) -> tuple[int, int, int]:
    """Honest judgements set aside; those of an attack that were, and that there were."""
    said: list[bytes] = []
    learnt: list[tuple[int, bytes]] = []
    suspects: frozenset[bytes] = frozenset()
    wrongly, rightly, sent = 0, 0, 0
    for place in range(JUDGEMENTS):
        attack = JUDGEMENTS // 2 <= place < JUDGEMENTS * 3 // 4 and rng.random() < share
        judge = b"attacker %d" % rng.randrange(_ATTACKERS) if attack else next(honest)
        said.append(judge)
        sent += attack
        if place % _EVERY == 0:
            before = [one for at, one in learnt[-USUAL - RECENT :] if at <= place - RECENT]
            suspects = bursting(said[-RECENT:], before[-USUAL:])
        if judge not in suspects:
            learnt.append((place, judge))
        wrongly += judge in suspects and not attack
        rightly += judge in suspects and attack
    return wrongly, rightly, sent


KINDS: dict[str, Honest] = {
    "300 people, at random": at_random,
    "40 people, at random": lambda rng: at_random(rng, 40),
    "20 at a time, 10 each": lambda rng: in_sessions(rng, 20, 10.0),
    "5 at a time, 10 each": lambda rng: in_sessions(rng, 5, 10.0),
    "5 at a time, 30 each": lambda rng: in_sessions(rng, 5, 30.0),
}


def main() -> None:
    """Print the table: of honest judgements and of the attack's, percent set aside, mean of the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    print("honest judges           attack  set aside of honest  of the attack")
    for name, honest in KINDS.items():
        for share in (0.0, 0.3, 0.6, 0.9):
            found = [set_aside(honest(random.Random(seed)), share, random.Random(f"attack/{seed}")) for seed in seeds]
            wrongly, rightly, sent = (sum(column) for column in zip(*found, strict=True))
            caught = f"{rightly / sent:13.0%}" if sent else " " * 13
            print(f"{name:23s} {share:6.0%} {wrongly / (JUDGEMENTS * len(seeds) - sent):20.1%}  {caught}")


if __name__ == "__main__":
    main()
