"""Removes all that one person asked and judged from the journal, and keeps it from coming back. Knows the tables; knows no weights.

What stays of it is numbers: a row of the journal goes on naming an erased feedback by its number, which is given to no other one and leads
nowhere, so that it can be counted. The keyed hash of the name stays in `exclusions` alone.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from liveloop import telemetry
from services.learner.journal import By, Journal
from services.learner.trainer import Recipe

_THEIRS = """
SELECT id FROM feedback WHERE judge = :who
UNION SELECT feedback.id FROM feedback JOIN predictions USING (prediction_id) WHERE asker = :who
"""
_DELETES = (
    "DELETE FROM feedback WHERE id IN (SELECT value FROM json_each(:ids))",
    "DELETE FROM predictions WHERE asker = :who",
    "DELETE FROM dead_letters WHERE instr(content, :who) > 0",
)
_TRUNCATE_PATIENCE = 5.0
"""Seconds for which others may read the journal before its write-ahead log is emptied: their reads take milliseconds."""

_log = telemetry.logger(part="erasure")


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed; none of it says whose it was."""

    predictions: int
    feedback: int
    versions: Sequence[int]  # that newly included some of it, oldest first
    first: int  # the first row that learnt from it; 0: none did


def erase(journal: Journal, recipe: Recipe, who: bytes, by: By, *, rebuild: bool) -> Erased:
    """Remove everything by `who`, a keyed hash, in one transaction with the note of it; a second time there is nothing left to remove.

    The next transaction's tensors must be saved already: no redo from before this can succeed.
    """
    ids = {one for (one,) in journal.db.execute(_THEIRS, {"who": who})}
    first, versions = _learnt(journal.db, ids)
    with journal.transaction() as db:
        predictions = db.execute("SELECT count(*) FROM predictions WHERE asker = ?", (who,)).fetchone()[0]
        found = db.execute("SELECT body FROM rows JOIN exclusions USING (row) WHERE judge = ?", (who,)).fetchone()
        before = json.loads(found[0])["first"] if found else 0  # what an order without a rebuild left in the weights
        first = first or (0 if journal.is_spoilt(before) else before)
        db.execute("INSERT OR IGNORE INTO exclusions VALUES (?, ?)", (who, journal.next_row()))
        for delete in _DELETES:
            db.execute(delete, {"who": who, "ids": json.dumps(sorted(ids))})
        counts = {"predictions": predictions, "feedback": len(ids), "versions": len(versions)}
        journal.note("forget", recipe, who=by.who, why=by.why, first=first, rebuild=rebuild, **counts)
    truncate(journal.db)
    return Erased(predictions, len(ids), versions, first)


def truncate(db: sqlite3.Connection) -> None:
    """Empty the write-ahead log, in which what was erased still stands. Other connections may put that off for a moment."""
    deadline = time.monotonic() + _TRUNCATE_PATIENCE
    while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            _log.warning("the journal's write-ahead log could not be emptied: somebody reads it; what was erased leaves it with time")
            return
        time.sleep(0.01)


def _learnt(db: sqlite3.Connection, ids: set[int]) -> tuple[int, list[int]]:
    """The first row that names some of these, replays included, and the versions of those that introduced some."""
    first, versions = 0, list[int]()
    if not ids:
        return first, versions
    for row, version, text in db.execute("SELECT row, version, body FROM rows WHERE kind IN ('train', 'consolidate') ORDER BY row"):
        body = json.loads(text)
        if not ids.isdisjoint(body["new"]):
            versions.append(version)
            first = first or row
        elif not ids.isdisjoint(body["replayed"]):
            first = first or row
    return first, versions
