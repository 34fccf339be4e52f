"""What people said, when, and how soon it was served. Knows the journal's tables; writes nothing, and reads no text and no comment."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from liveloop.rows import EXAMPLE
from liveloop.v1.events_pb2 import Source
from services.learner.judgements import NOBODY
from services.learner.summary import summary

_BINS = 40
"""Bars of the picture over time."""
_NEWEST = 1_000_000
"""Feedbacks whose freshness is looked at."""
_REASONS_LISTED = 12
_KIND = "CASE WHEN judge = :nobody THEN 'default reward' WHEN prediction_id >= :example THEN 'labelled row' ELSE signal END"
_SPAN = "SELECT min(accepted_at), max(accepted_at), count(*), count(DISTINCT judge) - max(judge = :nobody) FROM feedback"
_OVER_TIME = f"""
SELECT min(:bins - 1, cast((accepted_at - :first) / :width AS INTEGER)) AS bin, {_KIND} AS kind, count(*) FROM feedback GROUP BY bin, kind
"""  # noqa: S608  no input in it
_SOURCES = "SELECT source, count(*) FROM feedback GROUP BY source ORDER BY count(*) DESC"
_WAITS = "SELECT max(0.0, served_at - accepted_at) FROM feedback WHERE served_at IS NOT NULL ORDER BY id DESC LIMIT ?"


@dataclass(frozen=True, slots=True)
class People:
    """All feedback that is kept, counted."""

    count: int
    judges: int
    first: float  # when the oldest was accepted, Unix seconds
    last: float
    over_time: Mapping[str, Sequence[int]]  # by kind, commonest first: how many in each of equal stretches from `first` to `last`
    states: Mapping[str, int]
    sources: Mapping[str, int]
    reasons: Mapping[str, int]  # the commonest labels that people gave; their own words
    waits: npt.NDArray[np.float64]  # seconds from accepted to served, rising


def read_people(db: sqlite3.Connection) -> People:
    """A few scans of the table."""
    first, last, count, judges = db.execute(_SPAN, {"nobody": NOBODY}).fetchone()
    counts = summary(db)
    waits = np.fromiter((wait for (wait,) in db.execute(_WAITS, (_NEWEST,))), dtype=np.float64)
    waits.sort()
    return People(
        count=count,
        judges=judges or 0,
        first=first or 0.0,
        last=last or 0.0,
        over_time=_over_time(db, first, last) if count else {},
        states={one.name: one.count for one in sorted(counts.states, key=lambda one: -one.count)},
        sources={Source.Name(source).removeprefix("SOURCE_").lower(): number for source, number in db.execute(_SOURCES)},
        reasons={one.name: one.count for one in list(counts.reasons)[:_REASONS_LISTED]},
        waits=waits,
    )


def _over_time(db: sqlite3.Connection, first: float, last: float) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    asked = {"bins": _BINS, "first": first, "width": max(last - first, 1.0) / _BINS, "nobody": NOBODY, "example": EXAMPLE}
    for place, kind, count in db.execute(_OVER_TIME, asked):
        found.setdefault(kind, [0] * _BINS)[place] = count
    return dict(sorted(found.items(), key=lambda one: -sum(one[1])))
