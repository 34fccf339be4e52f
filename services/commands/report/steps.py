"""What the journal says of steps and of the versions they made, thinned to what a picture can show. Knows its tables; writes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.learner.intervals import Z_95, Estimate, Share

_BUCKETS = 240
"""Points of a curve: a picture on a telephone has about as many pixels across."""
_KINDS = "('train', 'consolidate')"
"""The rows that took an optimiser step."""
_NAMES = f"""
SELECT DISTINCT key FROM (SELECT body FROM rows WHERE kind IN {_KINDS} ORDER BY row DESC LIMIT 1000), json_each(body)
WHERE key LIKE '%_loss' ORDER BY key
"""  # noqa: S608  no input in it
_SPAN = f"SELECT min(row), max(row), count(*) FROM rows WHERE kind IN {_KINDS}"  # noqa: S608
_PATCHES = """
SELECT avg(version), avg(patch_bytes), max(patch_bytes) FROM versions WHERE patch_bytes > 0
GROUP BY version * :buckets / (SELECT max(version) + 1 FROM versions) ORDER BY 1
"""
_EVALUATIONS = """
SELECT version, scores FROM (
  SELECT version, scores, row_number() OVER (ORDER BY version DESC) AS place, count(*) OVER () AS total FROM evaluations)
WHERE (place - 1) % (1 + total / :points) = 0 ORDER BY version
"""
_SCALARS = f"""
SELECT row, created_at, body FROM (
  SELECT row, created_at, body, row_number() OVER (ORDER BY row DESC) AS place FROM rows WHERE kind IN {_KINDS})
WHERE (place - 1) % :stride = 0 ORDER BY row
"""  # noqa: S608
_EVALUATED = "SELECT row, evaluated_at, scores FROM evaluations JOIN rows USING (version) ORDER BY row"
_WAITS = """
SELECT row, max(served_at), avg(served_at - accepted_at), count(*) FROM feedback
WHERE served_at IS NOT NULL AND row > 0 GROUP BY row ORDER BY row
"""


class Point(NamedTuple):
    """The mean of the steps about a row."""

    row: float
    value: float


class Patch(NamedTuple):
    """The patches of versions about one, in bytes."""

    version: float
    mean: float
    largest: float


class Scalar(NamedTuple):
    """One number of one journal row."""

    tag: str  # group/name
    row: int
    at: float  # Unix seconds
    value: float


@dataclass(frozen=True, slots=True)
class Steps:
    """How learning went, step by step and version by version."""

    count: int
    losses: Mapping[str, Sequence[Point]]  # by component
    accuracies: Mapping[str, Sequence[tuple[int, Estimate]]]  # by split: the version and its share of right answers
    patches: Sequence[Patch]


def read_steps(db: sqlite3.Connection) -> Steps:
    """One pass over the rows for each curve; what is kept is bounded however long the journal is."""
    first, last, count = db.execute(_SPAN).fetchone()
    return Steps(
        count=count,
        losses=_losses(db, first, last) if count else {},
        accuracies=_accuracies(db),
        patches=[Patch(*found) for found in db.execute(_PATCHES, {"buckets": _BUCKETS})],
    )


def scalars(db: sqlite3.Connection, limit: int) -> Iterator[Scalar]:
    """About `limit` rows' numbers under each tag, evenly spread and the newest among them."""
    count = db.execute(_SPAN).fetchone()[2]
    for row, at, body in db.execute(_SCALARS, {"stride": 1 + count // limit}):
        yield from (Scalar(tag, row, at, value) for tag, value in _of_step(json.loads(body)))
    for row, at, scores in db.execute(_EVALUATED):
        yield from (Scalar(f"accuracy/{split}", row, at, score["accuracy"]) for split, score in json.loads(scores).items())
    for row, at, seconds, count in db.execute(_WAITS):
        yield Scalar("freshness/seconds", row, at, seconds)
        yield Scalar("freshness/feedback", row, at, count)


def _of_step(body: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """The tags of what stands in the row of a step."""
    for name, value in body.items():
        if isinstance(value, int | float):
            group = "loss" if name.endswith("_loss") else "step"
            yield f"{group}/{name.removesuffix('_loss')}", value
        elif isinstance(value, list) and name in ("new", "replayed", "task"):
            yield f"examples/{name}", len(value)


def _losses(db: sqlite3.Connection, first: int, last: int) -> dict[str, list[Point]]:
    names = [name for (name,) in db.execute(_NAMES)]
    means = "".join(f", avg(json_extract(body, '$.{name}'))" for name in names)
    bucket = "(row - :first) * :buckets / (:last - :first + 1)"
    query = f"SELECT avg(row){means} FROM rows WHERE kind IN {_KINDS} GROUP BY {bucket} ORDER BY 1"  # noqa: S608  names of our own
    found = db.execute(query, {"first": first, "last": last, "buckets": _BUCKETS}).fetchall()
    return {name: [Point(row[0], row[place]) for row in found if row[place] is not None] for place, name in enumerate(names, start=1)}


def _accuracies(db: sqlite3.Connection) -> dict[str, list[tuple[int, Estimate]]]:
    curves: dict[str, list[tuple[int, Estimate]]] = {}
    for version, scores in db.execute(_EVALUATIONS, {"points": _BUCKETS}):
        for split, score in json.loads(scores).items():
            right = Share(score["accuracy"] * score["rows"], score["rows"])
            curves.setdefault(split, []).append((version, Estimate(right.value, *right.interval(Z_95))))
    return curves
