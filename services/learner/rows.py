"""The journal's rows, read. Knows SQLite and what a row is; writes nothing and needs no lease."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from liveloop.errors import NotFound
from services.learner.lineage import Span, is_in, resets, standing
from services.learner.trainer import Recipe

STEPS = ("train", "consolidate")
"""Kinds of rows that learn: their bodies name feedback, task rows and the factor on the learning rate."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the journal."""

    row: int
    kind: str
    version: int | None
    body: Mapping[str, Any]
    recipe: str
    state_digest: bytes | None
    created_at: float

    @property
    def is_rebuild(self) -> bool:
        """Training was redone without what was erased: every version from row `first` on up to this one is replaced."""
        return self.kind == "rebase" and "first" in self.body


@dataclass(frozen=True, slots=True)
class Due:
    """A rebuild that was ordered and is not made yet."""

    first: int  # the first row that learnt from what was erased
    who: str
    why: str


_REBUILDS = "SELECT json_extract(body, '$.first'), row FROM rows WHERE kind = 'rebase' AND json_extract(body, '$.first') > 0"
_DUE = """
SELECT min(json_extract(body, '$.first')), json_extract(body, '$.who'), json_extract(body, '$.why') FROM rows
WHERE kind = 'note' AND json_extract(body, '$.decision') = 'forget' AND json_extract(body, '$.rebuild')
  AND json_extract(body, '$.first') > 0 AND row > max(
    coalesce((SELECT max(row) FROM rows WHERE kind = 'rebase' AND json_extract(body, '$.first') > 0), 0),
    coalesce((SELECT max(row) FROM rows WHERE kind = 'note' AND json_extract(body, '$.decision') = 'rebuild_failed'), 0))
"""


class JournalRows:
    """Questions about rows, through any connection to the journal."""

    db: sqlite3.Connection

    def first(self) -> Row | None:
        """The oldest row that made a version."""
        return next(self._rows("version IS NOT NULL ORDER BY row LIMIT 1"), None)

    def last(self) -> Row | None:
        """The newest row that made a version."""
        return next(self._rows("version IS NOT NULL ORDER BY row DESC LIMIT 1"), None)

    def since(self, row: int) -> list[Row]:
        """The rows after `row` that made a version, in order."""
        return list(self._rows("version IS NOT NULL AND row > ? ORDER BY row", row))

    def making(self, version: int) -> Row | None:
        """The row that made `version`."""
        return next(self._rows("version = ?", version), None)

    def recipe(self, digest: str) -> Recipe:
        """The recipe of this digest."""
        body = self.db.execute("SELECT body FROM recipes WHERE digest = ?", (digest,)).fetchone()[0]
        return Recipe(**json.loads(body))

    def next_row(self) -> int:
        """The number of the next row."""
        return int(self.db.execute("SELECT coalesce(max(row), 0) + 1 FROM rows").fetchone()[0])

    def manifest(self, version: int) -> str:
        """The blob of a published version's manifest. Raises NotFound."""
        found = self.db.execute("SELECT manifest FROM versions WHERE version = ?", (version,)).fetchone()
        if found is None:
            raise NotFound(f"version {version} was never published")
        return str(found[0])

    def due_rebuild(self) -> Due | None:
        """The rebuild that is still to be made; of several the one from the earliest row on makes them all."""
        first, who, why = self.db.execute(_DUE).fetchone()
        return Due(first, who, why) if first else None

    def rebuilds(self) -> list[tuple[int, int]]:
        """The rows that each rebuild replaced: from the first on, and before the second."""
        return rebuilds(self.db)

    def is_spoilt(self, row: int) -> bool:
        """A rebuild replaced this row: what was saved after it holds what was erased."""
        return any(first <= row < rebuilt for first, rebuilt in self.rebuilds())

    def is_replaced(self, version: int) -> bool:
        """A rebuild replaced it: its weights are gone for good."""
        return self.is_spoilt(self._row_of(version))

    def stands(self, version: int) -> bool:
        """Neither undone nor replaced."""
        return not (self.is_undone(version) or self.is_replaced(version))

    def is_undone(self, version: int) -> bool:
        """A reset went back to before the row that made it, and no later one to it. One without a row is older than all rows: it stands."""
        row = self._row_of(version)
        return row > 0 and not is_in(self._lineage(self.next_row() - 1), row)

    def _lineage(self, row: int) -> list[Span]:
        return standing(resets(self.db), row)

    def _row_of(self, version: int) -> int:
        """The row that made a version; 0, before all rows, for one of which the journal knows nothing."""
        row = self.making(version)
        return row.row if row else 0

    def _rows(self, condition: str, *parameters: Any) -> Iterator[Row]:
        query = f"SELECT row, kind, version, body, recipe, state_digest, created_at FROM rows WHERE {condition}"  # noqa: S608  no input in it
        for row, kind, version, body, *rest in self.db.execute(query, parameters).fetchall():
            yield Row(row, kind, version, json.loads(body), *rest)


def rebuilds(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """The rows that each rebuild replaced: from the first on, and before the second."""
    return db.execute(_REBUILDS).fetchall()
