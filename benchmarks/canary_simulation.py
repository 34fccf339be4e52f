"""How often the canary's users decide wrongly, and how many judgements they need: `python benchmarks/canary_simulation.py`.

A canary of a tenth of the askers; the blessed version is wrong for 20 % of the judges. Every judge says wrong at a rate of his own, drawn
around his version's from a beta distribution, so that judges differ more than versions do. The learner looks after every 100 judgements.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np

from liveloop.weights.channels import Channel, channel_of
from services.learner.canary import Decision, Judgement, decide

SHARE = 0.1
LOOK_EVERY = 100
NEWEST = 10_000
BASE = 0.2
_SPREAD = 8.0
"""a + b of the beta distribution: at a mean of 0.2 a standard deviation of 0.13."""


@dataclass(frozen=True, slots=True)
class Site:
    """Whose judgements there are."""

    judges: int  # who come back at random; 0: every judge is new
    worse: float  # how much more often the current version is wrong


def judgements(site: Site, rng: np.random.Generator) -> Iterator[Judgement]:
    """An endless stream."""
    regulars = [(asker, _rate(site, asker, rng)) for asker in (rng.bytes(16) for _ in range(site.judges))]
    while True:
        asker, rate = regulars[rng.integers(site.judges)] if regulars else _stranger(site, rng)
        yield Judgement(channel_of(asker, SHARE), asker, float(rng.random() < rate))


def _stranger(site: Site, rng: np.random.Generator) -> tuple[bytes, float]:
    asker = rng.bytes(16)
    return asker, _rate(site, asker, rng)


def _rate(site: Site, asker: bytes, rng: np.random.Generator) -> float:
    """How often this judge says wrong."""
    mean = BASE + (site.worse if channel_of(asker, SHARE) is Channel.CURRENT else 0.0)
    return float(rng.beta(mean * _SPREAD, (1 - mean) * _SPREAD))


def run(site: Site, *, seed: int, limit: int) -> tuple[Decision, int]:
    """The first decision other than to watch, and after how many judgements; WATCH when there is none within `limit`."""
    window: deque[Judgement] = deque(maxlen=NEWEST)
    for count, judgement in enumerate(judgements(site, np.random.default_rng(seed)), start=1):
        window.appendleft(judgement)
        if count % LOOK_EVERY == 0 and (found := decide(tuple(window), {}).decision) is not Decision.WATCH:
            return found, count
        if count >= limit:
            return Decision.WATCH, count
    raise AssertionError("the stream is endless")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--limit", type=int, default=10_000, help="judgements after which a run ends")
    options = parser.parse_args()
    print(f"{'judges':>8} {'points worse':>12} {'promoted':>9} {'rolled back':>12} {'neither':>8}  median judgements to the decision")
    for judges in (0, 2000):
        for worse in (0.0, 0.03, 0.1, 0.2, 0.6):
            ends = [run(Site(judges, worse), seed=seed, limit=options.limit) for seed in range(options.runs)]
            shares = [
                sum(end is decision for end, _ in ends) / len(ends) for decision in (Decision.PROMOTE, Decision.ROLLBACK, Decision.WATCH)
            ]
            columns = f"{shares[0]:>9.0%} {shares[1]:>12.0%} {shares[2]:>8.0%}  {median(count for _, count in ends):.0f}"
            print(f"{judges or 'all new':>8} {100 * worse:>12.0f} {columns}", flush=True)


if __name__ == "__main__":
    main()
