"""The append-only record of every step and decision, and the state of every feedback. Knows SQLite; knows no torch, log or store.

Everything is written in transactions that begin by checking the lease: a process that lost it can change nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from liveloop import telemetry, tracing
from liveloop.events import Gap, Page
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.dead_letters import DeadLetters
from services.learner.joiner import Joiner
from services.learner.judgements import state_name
from services.learner.lineage import Span, without
from services.learner.micro_batch import MicroBatch
from services.learner.rows import Due, Row
from services.learner.trainer import Recipe
from services.learner.versions import Versions

_RESETS = """
SELECT count(*) FROM rows WHERE kind = 'reset' AND json_extract(body, '$.who') = ? AND row > max(
  coalesce((SELECT max(row) FROM rows WHERE kind = 'note' AND json_extract(body, '$.decision') = 'resume'), 0),
  coalesce((SELECT max(row) FROM rows JOIN versions USING (version) WHERE blessed_at IS NOT NULL AND kind != 'reset'), 0),
  coalesce((SELECT max(row) FROM rows JOIN evaluations USING (version) WHERE passed AND kind != 'reset'), 0))
"""
_PAUSE_OR_RESUME = """
SELECT json_extract(body, '$.decision') AS decision FROM rows WHERE kind = 'note' AND decision IN ('pause', 'resume')
ORDER BY row DESC LIMIT 1
"""
_STAND_AGAIN = """
UPDATE feedback SET state = ?, row = rows.row, version = ?, reason = '', uses = max(uses, 1)
FROM rows, json_each(rows.body, '$.new') AS introduced
WHERE rows.row > ? AND rows.row <= ? AND rows.kind = 'train' AND feedback.id = introduced.value AND state IN (?, ?)
"""
_TAKEN_BACK = """
SELECT DISTINCT feedback.id FROM rows, json_each(rows.body, '$.new') AS introduced JOIN feedback ON feedback.id = introduced.value
WHERE rows.row >= ? AND rows.kind = 'train' AND state IN (?, ?, ?) ORDER BY feedback.id
"""
"""By the rows' own word: a feedback that was released from quarantine names no row, and the one it had may stand again."""
_LEARN = """
UPDATE feedback SET state = ?, row = ?, last_row = ?, version = ?, standing = ?, reason = '', uses = 1, agreement = (
  SELECT iif(signal = 'up' OR (signal = 'rating' AND rating >= 0.5) OR feedback.label = predictions.label, score, 1.0 - score)
  FROM predictions WHERE predictions.prediction_id = feedback.prediction_id
) WHERE id = ?
"""
_COUNT = {
    "train": "UPDATE feedback SET uses = uses + 1, last_row = ? WHERE id = ?",
    "consolidate": "UPDATE feedback SET consolidations = consolidations + 1, last_row = ? WHERE id = ?",
}
"""What becomes of feedback that a step takes again, by the step's kind."""
_NEVER_AGAIN = (State.FEEDBACK_STATE_RETRACTED, State.FEEDBACK_STATE_SUPERSEDED, State.FEEDBACK_STATE_REJECTED)


@dataclass(frozen=True, slots=True)
class By:
    """Who orders, and why: free text."""

    who: str
    why: str


FORMAT = 4
"""Of schema.sql: raise it with every change of a table."""


class Journal(Versions):
    """The learner's own truth. One connection, used by one thread."""

    def __init__(self, path: Path, *, holder: str, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file. Raises Misconfigured when it cannot be used."""
        super().__init__(path, (Path(__file__).parent / "schema.sql").read_text(), version=FORMAT, holder=holder, clock=clock)
        self.dead_letters = DeadLetters(self.db, clock=clock)
        self._paused: bool | None = None  # as the last note on it says; None: not read since the lease was taken

    def acquire(self, at_least: int) -> bool:
        """Take the lease if it is free; what another holder wrote is read again."""
        self._paused = None
        return super().acquire(at_least)

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
                times = self.dead_letters.sift(record, joiner)
                read_until[record.partition] = max(read_until.get(record.partition, 0.0), *times, 0.0)
                position[record.partition] = record.position + 1
            joiner.resolve()
            read_until.update(dict.fromkeys(page.at_end, self._clock()))
            db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
                [(partition, position.get(partition, 0), until) for partition, until in read_until.items()],
            )
        _count(joiner)

    def retry(self, ids: Sequence[int], joiner: Joiner) -> tuple[int, int]:
        """Read dead letters again, all where none is named: how many could be read whole, and how many still cannot."""
        with self.transaction():
            done = self.dead_letters.retry(ids, joiner)
            joiner.resolve()
        _count(joiner)
        return done

    def pass_over(self, gaps: Sequence[Gap], recipe: Recipe, *, who: str, why: str) -> None:
        """Record that what is missing in the log is given up, and go on behind it."""
        with self.transaction() as db:
            self.note("accept-gap", recipe, who=who, why=why, gaps=[{"partition": p, "from": start, "to": end} for p, start, end in gaps])
            db.executemany("UPDATE positions SET position = ? WHERE partition = ?", [(gap.end, gap.partition) for gap in gaps])

    def expire(self, joiner: Joiner, partitions: Sequence[int], history: float) -> bool:
        """Give up on what can no longer be joined; forget what is older than `history` seconds. True where there is more to do."""
        with self.transaction() as db:
            read_until = dict(db.execute("SELECT partition, read_until FROM positions").fetchall())
            now = self._clock()
            until = min((read_until.get(partition, 0.0) for partition in partitions), default=0.0)
            more = joiner.expire(min(until, now))  # an event of the future, by a clock that jumped, ends nothing early
            joiner.forget(now - history)
            db.execute("DELETE FROM dead_letters WHERE set_aside_at < ?", (now - history,))
        _count(joiner)
        return more

    # Rows

    def train(
        self,
        batch: MicroBatch,
        recipe: Recipe,
        digest: bytes,
        *,
        losses: Mapping[str, float],
        rate: float = 1.0,
        kind: str = "train",
    ) -> Row:
        """Record a step, train or consolidate, and what it makes of its feedback. Journalled feedback is never taken again as new."""
        body = {"new": batch.new, "replayed": batch.replayed, "task": batch.task, "weights": batch.weights, "rate": rate, **losses}
        if traceparent := tracing.traceparent():  # a publish after a crash makes the same manifest
            body["traceparent"] = traceparent
        with self.transaction() as db:
            row = self._append(kind, recipe, body, digest)
            db.executemany(
                _LEARN,
                [
                    (State.FEEDBACK_STATE_TRAINED, row.row, row.row, row.version, standing, feedback)
                    for feedback, standing in zip(batch.new, batch.weights or repeat(1.0), strict=False)
                ],
            )
            replayed = [(row.row, feedback) for feedback in batch.replayed]
            db.executemany(_COUNT[kind], replayed)
        telemetry.counter("feedback_outcomes_total").labels("trained").inc(len(batch.new))
        return row

    def change(self, kind: str, recipe: Recipe, body: Mapping[str, Any], digest: bytes, *, version: int | None = None) -> Row:
        """Record a row that makes a version without feedback: init, settle, rebase."""
        with self.transaction():
            return self._append(kind, recipe, body, digest, version=version)

    def reset(self, to: int, recipe: Recipe, digest: bytes, why: str, *, who: str = "guard") -> Row:
        """Record a return to the bytes of version `to`. The feedback that its undone rows introduced is quarantined.

        Where `to` had itself been undone, the rows behind it stand again, and so does what they learnt.
        """
        with self.transaction():
            now, then = self._lineage(self.next_row() - 1), self._lineage(self._row_of(to))
            quarantined = sum(self._undo(rows, f"the step that learnt from it was undone by {who}: {why}") for rows in without(now, then))
            row = self._append("reset", recipe, {"to": to, "who": who, "why": why, "quarantined": quarantined}, digest)
            for rows in without(then, now):
                self._redo(rows, row.version)
        telemetry.counter("feedback_outcomes_total").labels("quarantined").inc(quarantined)
        return row

    def resets_in_a_row(self, who: str) -> int:
        """Resets by `who` since a version passed the full evaluation or was blessed, or training was resumed."""
        return int(self.db.execute(_RESETS, (who,)).fetchone()[0])

    def rebuilt(self, recipe: Recipe, due: Due, digest: bytes, *, without: Sequence[int], left_out: int) -> Row:
        """Record training redone from row `due.first` on, with `left_out` uses of examples less, those of `without` among them.

        What the replaced versions learnt from and it did too is included by its version now.
        """
        with self.transaction() as db:
            why = f"training was redone without what was erased: {due.why}"
            body = {"who": due.who, "why": why, "first": due.first, "without": without, "left_out": left_out}
            row = self.change("rebase", recipe, body, digest)
            replaced = "SELECT version FROM rows WHERE row >= ? AND row < ? AND version IS NOT NULL"
            moved = f"UPDATE feedback SET version = ? WHERE state IN (?, ?) AND version IN ({replaced})"  # noqa: S608  no input in it
            db.execute(moved, (row.version, State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_SERVED, due.first, row.row))
            db.execute(f"DELETE FROM pins WHERE version IN ({replaced})", (due.first, row.row))  # noqa: S608
        return row

    def taken_back_since(self, row: int) -> list[int]:
        """Feedback that a step from `row` on introduced, and that was retracted, superseded or dropped after that."""
        return [one for (one,) in self.db.execute(_TAKEN_BACK, (row, *_NEVER_AGAIN))]

    def _undo(self, rows: Span, why: str) -> int:
        """Quarantine the feedback that these rows introduced; how many. Its uses stay counted, for the rows may stand again."""
        query = "UPDATE feedback SET state = ?, reason = ? WHERE row > ? AND row <= ? AND state IN (?, ?)"
        learnt = (State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_SERVED)
        return self.db.execute(query, (State.FEEDBACK_STATE_QUARANTINED, why, *rows, *learnt)).rowcount

    def _redo(self, rows: Span, version: int | None) -> None:
        """What these rows introduced, and what was not taken back since, is learnt again, from `version` on."""
        undone = (State.FEEDBACK_STATE_QUARANTINED, State.FEEDBACK_STATE_JOINED)
        again = self.db.execute(_STAND_AGAIN, (State.FEEDBACK_STATE_TRAINED, version, *rows, *undone))
        telemetry.counter("feedback_outcomes_total").labels("trained").inc(again.rowcount)

    def note(self, decision: str, recipe: Recipe, **details: Any) -> None:
        """Record a decision that makes no version."""
        with self.transaction():
            self._append("note", recipe, {"decision": decision, **details}, None)

    def pause(self, recipe: Recipe, *, who: str, why: str) -> None:
        """Record that no more steps are taken until `resume`."""
        self.note("pause", recipe, who=who, why=why)
        self._paused = True

    def resume(self, recipe: Recipe, *, who: str, why: str) -> None:
        """Record that steps are taken again."""
        self.note("resume", recipe, who=who, why=why)
        self._paused = False

    def is_paused(self) -> bool:
        """The last word on it was `pause`."""
        if self._paused is None:
            last = self.db.execute(_PAUSE_OR_RESUME).fetchone()
            self._paused = last == ("pause",)
        return self._paused

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
            back = db.executemany(
                "UPDATE feedback SET state = ?, reason = '', returned = 1 WHERE id = ? AND state = ? AND returned = 0",
                [(State.FEEDBACK_STATE_JOINED, one, State.FEEDBACK_STATE_QUARANTINED) for one in feedback],
            )
        telemetry.counter("feedback_outcomes_total").labels("joined").inc(back.rowcount)

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


def _count(joiner: Joiner) -> None:
    for state, count in joiner.outcomes.items():
        telemetry.counter("feedback_outcomes_total").labels(state_name(state)).inc(count)
    joiner.outcomes.clear()
