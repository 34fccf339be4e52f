"""What became of each version: published, evaluated, blessed, kept. Knows the journal's tables; knows no store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from services.learner.lease import LeasedDatabase
from services.learner.rows import JournalRows

_HOUR = 3600.0
ANCHOR_AGE = _HOUR
"""Seconds that the anchor's blessing lies back at the least: what creeps is compared with where it was then."""

_LAST_RESET = "SELECT coalesce(max(version), 0) FROM rows WHERE kind = 'reset' OR kind = 'rebase' AND json_extract(body, '$.first') > 0"


@dataclass(frozen=True, slots=True)
class Score:
    """How a version did on one split."""

    accuracy: float  # share of right answers, in [0, 1]
    rows: int


class Versions(LeasedDatabase, JournalRows):
    """The part of the journal that is about versions, not about rows."""

    def published(self, version: int, *, parent: int, manifest: str, patch_bytes: int, signer: str = "") -> None:
        """Record what a publish made; `signer` is the digest of the key that signed it, blake3 in hex."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO versions (version, parent, manifest, patch_bytes, signer) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (version) DO UPDATE SET parent = excluded.parent, manifest = excluded.manifest,"
                " patch_bytes = excluded.patch_bytes, signer = excluded.signer",
                (version, parent, manifest, patch_bytes, signer),
            )

    def is_published(self, version: int) -> bool:
        """Whether `published` has recorded it."""
        return self.db.execute("SELECT 1 FROM versions WHERE version = ?", (version,)).fetchone() is not None

    def evaluated(self, version: int, scores: Mapping[str, Score], *, passed: bool, why: str = "") -> None:
        """Record what the full evaluation of a version found, by split, and whether it may be blessed; `why` says how it compared."""
        body = json.dumps({split: asdict(score) for split, score in scores.items()})
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?)", (version, body, passed, why, self._clock()))

    def blessed(self, version: int) -> None:
        """Record that a published version became the blessed one; the first time counts."""
        with self.transaction() as db:
            db.execute("UPDATE versions SET blessed_at = ? WHERE version = ? AND blessed_at IS NULL", (self._clock(), version))

    def blessed_before(self, version: int) -> list[int]:
        """The versions before it that ever became the blessed one, newest first."""
        query = "SELECT version FROM versions WHERE blessed_at IS NOT NULL AND version < ? ORDER BY version DESC"
        return [found for (found,) in self.db.execute(query, (version,))]

    def is_blessed(self, version: int) -> bool:
        """Whether it ever became the blessed version."""
        query = "SELECT 1 FROM versions WHERE version = ? AND blessed_at IS NOT NULL"
        return self.db.execute(query, (version,)).fetchone() is not None

    def pin(self, version: int) -> None:
        """Keep a version until it is unpinned."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO pins VALUES (?)", (version,))

    def unpin(self, version: int) -> bool:
        """Let a pinned version go; False where it is not pinned."""
        with self.transaction() as db:
            return db.execute("DELETE FROM pins WHERE version = ?", (version,)).rowcount > 0

    def included(self, after: int, version: int, limit: int) -> list[float]:
        """When the newest `limit` feedbacks that `version` includes and `after` does not were accepted, Unix seconds."""
        query = "SELECT accepted_at FROM feedback WHERE version > ? AND version <= ? ORDER BY version DESC LIMIT ?"
        return [accepted_at for (accepted_at,) in self.db.execute(query, (after, version, limit))]

    def anchor(self, age: float) -> int | None:
        """The version that stands for what was blessed `age` seconds ago: the first one blessed in the clock hour in which that was.

        None where there was none since the last reset or rebuild: it begins anew.
        """
        since = self.last_reset()
        query = "SELECT version, blessed_at FROM versions WHERE version >= ? AND blessed_at {} ? ORDER BY blessed_at {} LIMIT 1"
        newest = self.db.execute(query.format("<=", "DESC"), (since, self._clock() - age)).fetchone()
        if newest is None:
            return None
        first = self.db.execute(query.format(">=", "ASC"), (since, newest[1] // _HOUR * _HOUR)).fetchone()
        return int(first[0])

    def kept(self, blessed: int, since: float) -> list[int]:
        """Versions that stay: pinned, the last `blessed` blessed ones, those that stand for the last hours, and those that a redo needs.

        A redo of rows made after `since`, Unix seconds, starts from their bytes; the first is what steps may be compared with.
        """
        queries = [
            ("SELECT version FROM versions WHERE blessed_at IS NOT NULL ORDER BY blessed_at DESC LIMIT ?", (blessed,)),
            ("SELECT version FROM rows WHERE kind = 'init' OR kind = 'rebase' AND created_at > ?", (since,)),
            ("SELECT json_extract(body, '$.to') FROM rows WHERE kind = 'reset' AND created_at > ?", (since,)),
            ("SELECT version FROM pins", ()),
        ]
        found = {version for query, parameters in queries for (version,) in self.db.execute(query, parameters)}
        anchors = (self.anchor(0.0), self.anchor(ANCHOR_AGE))
        found.update(version for version in anchors if version is not None)
        return sorted(version for version in found if not self.is_replaced(version))

    def last_reset(self) -> int:
        """The newest version that a rollback or a rebuild made; 0 where there is none."""
        return int(self.db.execute(_LAST_RESET).fetchone()[0])
