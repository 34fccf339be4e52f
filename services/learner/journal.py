"""The append-only record of every step and decision, and the state of every feedback. Knows SQLite; knows no torch, log or store.

Everything is written in transactions that begin by checking the lease: a process that lost it can change nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveloop import telemetry
from liveloop.errors import NotFound
from liveloop.events import Page
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.joiner import Joiner
from services.learner.lease import LeasedDatabase
from services.learner.micro_batch import MicroBatch
from services.learner.trainer import Recipe


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


class Journal(LeasedDatabase):
    """The learner's own truth. One connection, used by one thread."""

    def __init__(self, path: Path, *, holder: str, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file. Raises Misconfigured when it cannot be used."""
        super().__init__(path, (Path(__file__).parent / "schema.sql").read_text(), holder=holder, clock=clock)

    # Events in

    def positions(self) -> dict[int, int]:
        """The next position to read, by partition."""
        return dict(self.db.execute("SELECT partition, position FROM positions").fetchall())

    def ingest(self, page: Page, joiner: Joiner) -> None:
        """Store a page of events and move the positions behind it, together."""
        with self.transaction() as db:
            read_until = dict(db.execute("SELECT partition, read_until FROM positions").fetchall())
            position = self.positions()
            for record in page.records:
                times = [joiner.take(event) for event in record.events]
                read_until[record.partition] = max(read_until.get(record.partition, 0.0), *times, 0.0)
                position[record.partition] = record.position + 1
            joiner.resolve()
            read_until.update(dict.fromkeys(page.at_end, self._clock()))
            db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
                [(partition, position.get(partition, 0), until) for partition, until in read_until.items()],
            )
        _count(joiner)

    def expire(self, joiner: Joiner, partitions: Sequence[int], history: float) -> None:
        """Give up on what can no longer be joined; forget examples older than `history` seconds."""
        with self.transaction() as db:
            read_until = dict(db.execute("SELECT partition, read_until FROM positions").fetchall())
            joiner.expire(min((read_until.get(partition, 0.0) for partition in partitions), default=0.0))
            joiner.forget(self._clock() - history)
        _count(joiner)

    # Rows

    def last(self) -> Row | None:
        """The newest row that made a version."""
        found = list(self._rows("version IS NOT NULL ORDER BY row DESC LIMIT 1"))
        return found[0] if found else None

    def since(self, row: int) -> list[Row]:
        """The rows after `row` that made a version, in order."""
        return list(self._rows("version IS NOT NULL AND row > ? ORDER BY row", row))

    def making(self, version: int) -> Row | None:
        """The row that made `version`."""
        found = list(self._rows("version = ?", version))
        return found[0] if found else None

    def is_held(self) -> bool:
        """The gate's last word was to stop publishing."""
        decisions = [row.body["decision"] for row in self._rows("kind = 'note' ORDER BY row DESC")]
        return next((decision == "hold" for decision in decisions if decision in {"hold", "resume"}), False)

    def recipe(self, digest: str) -> Recipe:
        """The recipe of this digest."""
        body = self.db.execute("SELECT body FROM recipes WHERE digest = ?", (digest,)).fetchone()[0]
        return Recipe(**json.loads(body))

    def next_row(self) -> int:
        """The number of the next row."""
        return int(self.db.execute("SELECT coalesce(max(row), 0) + 1 FROM rows").fetchone()[0])

    def train(self, batch: MicroBatch, recipe: Recipe, digest: bytes, *, losses: Mapping[str, float]) -> Row:
        """Record a training step and what it makes of its feedback. Journalled feedback is never taken again."""
        body = {"new": batch.new, "replayed": batch.replayed, "task": batch.task, **losses}
        with self.transaction() as db:
            row = self._append("train", recipe, body, digest)
            db.executemany(
                "UPDATE feedback SET state = ?, row = ?, version = ?, reason = '', uses = uses + 1 WHERE id = ?",
                [(State.FEEDBACK_STATE_TRAINED, row.row, row.version, feedback) for feedback in batch.new],
            )
            db.executemany("UPDATE feedback SET uses = uses + 1 WHERE id = ?", [(feedback,) for feedback in batch.replayed])
        telemetry.counter("feedback_outcomes_total").labels("trained").inc(len(batch.new))
        return row

    def change(self, kind: str, recipe: Recipe, body: Mapping[str, Any], digest: bytes, *, version: int | None = None) -> Row:
        """Record a row that makes a version without feedback: init, settle, rebase."""
        with self.transaction():
            return self._append(kind, recipe, body, digest, version=version)

    def reset(self, to: int, recipe: Recipe, digest: bytes, why: str) -> Row:
        """Record a return to the bytes of version `to`: the feedback its undone rows introduced is quarantined."""
        undone = self.making(to)
        with self.transaction() as db:
            db.execute(
                "UPDATE feedback SET state = ?, reason = ? WHERE row > ? AND state IN (?, ?)",
                (
                    State.FEEDBACK_STATE_QUARANTINED,
                    f"the step that learnt from it was undone: {why}",
                    undone.row if undone else 0,
                    State.FEEDBACK_STATE_TRAINED,
                    State.FEEDBACK_STATE_SERVED,
                ),
            )
            return self._append("reset", recipe, {"to": to, "why": why}, digest)

    def note(self, decision: str, recipe: Recipe, **details: Any) -> None:
        """Record a decision that makes no version."""
        with self.transaction():
            self._append("note", recipe, {"decision": decision, **details}, None)

    def quarantine(self, feedback: Sequence[int], why: str) -> None:
        """Set feedback aside: its step was refused."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE feedback SET state = ?, reason = ? WHERE id = ?",
                [(State.FEEDBACK_STATE_QUARANTINED, why, one) for one in feedback],
            )
        telemetry.counter("feedback_outcomes_total").labels("quarantined").inc(len(feedback))

    def give_back(self, feedback: Sequence[int]) -> None:
        """Let feedback of refused steps be taken again, once."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE feedback SET state = ?, reason = '', returned = 1 WHERE id = ? AND state = ? AND returned = 0",
                [(State.FEEDBACK_STATE_JOINED, one, State.FEEDBACK_STATE_QUARANTINED) for one in feedback],
            )

    # Versions

    def published(self, version: int, *, parent: int, manifest: str, patch_bytes: int) -> None:
        """Record what a publish made."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO versions (version, parent, manifest, patch_bytes) VALUES (?, ?, ?, ?)",
                (version, parent, manifest, patch_bytes),
            )

    def is_published(self, version: int) -> bool:
        """Whether `published` has recorded it."""
        return self.db.execute("SELECT 1 FROM versions WHERE version = ?", (version,)).fetchone() is not None

    def evaluated(self, version: int, *, accuracy: float | None, blessed: bool) -> None:
        """Record what the full evaluation of a published version found."""
        with self.transaction() as db:
            db.execute("UPDATE versions SET accuracy = ?, blessed = ? WHERE version = ?", (accuracy, blessed, version))

    def manifest(self, version: int) -> str:
        """The blob of a published version's manifest. Raises NotFound."""
        found = self.db.execute("SELECT manifest FROM versions WHERE version = ?", (version,)).fetchone()
        if found is None:
            raise NotFound(f"version {version} was never published")
        return str(found[0])

    def included(self, after: int, version: int, limit: int) -> list[float]:
        """When the newest `limit` feedbacks that `version` includes and `after` does not were accepted, Unix seconds."""
        query = "SELECT accepted_at FROM feedback WHERE version > ? AND version <= ? ORDER BY version DESC LIMIT ?"
        return [accepted_at for (accepted_at,) in self.db.execute(query, (after, version, limit))]

    def kept(self, blessed: int, since: float) -> list[int]:
        """Versions that stay: the last `blessed` blessed ones, and those from which a redo may start (of rows made after `since`)."""
        newest = self.db.execute("SELECT version FROM versions WHERE blessed ORDER BY version DESC LIMIT ?", (blessed,)).fetchall()
        bases = self.db.execute("SELECT version FROM rows WHERE kind IN ('init', 'rebase') AND created_at > ?", (since,)).fetchall()
        resets = self.db.execute("SELECT json_extract(body, '$.to') FROM rows WHERE kind = 'reset' AND created_at > ?", (since,)).fetchall()
        return sorted({version for (version,) in (*newest, *bases, *resets)})

    def _append(self, kind: str, recipe: Recipe, body: Mapping[str, Any], digest: bytes | None, *, version: int | None = None) -> Row:
        if digest is not None and version is None:
            newest = self.db.execute("SELECT max(version) FROM rows WHERE version IS NOT NULL").fetchone()[0]
            version = 1 + (newest or 0)
        row = Row(self.next_row(), kind, version, body, recipe.digest, digest, self._clock())
        self.db.execute("INSERT OR IGNORE INTO recipes VALUES (?, ?)", (recipe.digest, recipe.body))
        self.db.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (row.row, kind, self.epoch, version, json.dumps(body), recipe.digest, digest, row.created_at),
        )
        return row

    def _rows(self, condition: str, *parameters: Any) -> Iterator[Row]:
        query = f"SELECT row, kind, version, body, recipe, state_digest, created_at FROM rows WHERE {condition}"  # noqa: S608  no input in it
        for row, kind, version, body, *rest in self.db.execute(query, parameters).fetchall():
            yield Row(row, kind, version, json.loads(body), *rest)


def _count(joiner: Joiner) -> None:
    for state, count in joiner.outcomes.items():
        telemetry.counter("feedback_outcomes_total").labels(state_name(state)).inc(count)
    joiner.outcomes.clear()


def state_name(state: int) -> str:
    """The short lower-case name of a feedback state."""
    return State.Name(state).removeprefix("FEEDBACK_STATE_").lower()  # type: ignore[arg-type]
