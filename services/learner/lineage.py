"""Which rows still stand after the resets: those that a state descends from. Knows row numbers, and the table that says where resets went.

A reset goes back to the state after an earlier row, also to one that an earlier reset had undone: rows form a tree, and the state after a
row descends from a handful of spans of them, however many rows there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

Span = tuple[int, int]
"""Rows after the first and up to the second number."""

_RESETS = """
SELECT reset.row, coalesce(target.row, 0)
FROM rows AS reset LEFT JOIN rows AS target ON target.version = json_extract(reset.body, '$.to')
WHERE reset.kind = 'reset' ORDER BY reset.row DESC
"""


def resets(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """Each reset's row and the row after whose state it went on, newest first."""
    return db.execute(_RESETS).fetchall()


def standing(resets: Iterable[tuple[int, int]], row: int) -> list[Span]:
    """The rows that the state after `row` descends from, newest first; `resets` as the function of that name gives them."""
    spans = []
    for reset, to in resets:
        if reset <= row:  # else it came later, or was itself undone
            spans.append((reset - 1, row))
            row = to
    return [*spans, (0, row)]


def without(spans: Sequence[Span], others: Iterable[Span]) -> list[Span]:
    """The rows of `spans` that are in none of `others`."""
    left = list(spans)
    for after, until in others:
        pieces = [piece for low, high in left for piece in ((low, min(high, after)), (max(low, until), high))]
        left = [(low, high) for low, high in pieces if low < high]
    return left


def is_in(spans: Iterable[Span], row: int) -> bool:
    """Whether a row is in one of them."""
    return any(after < row <= until for after, until in spans)
