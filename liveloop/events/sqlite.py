"""SqliteLog: the event log in one file, and the outbox of the distributed one. Knows what a duplicate is, not who writes or reads."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from liveloop.errors import Overloaded
from liveloop.events import Gap, LogTruncated, Page
from liveloop.events.codec import content_digest, encode, identity_of, record_of
from liveloop.events.database import Database
from liveloop.v1.events_pb2 import Event

_SCHEMA = """
CREATE TABLE batch (position INTEGER PRIMARY KEY AUTOINCREMENT, written_at REAL NOT NULL, events INTEGER NOT NULL, record BLOB NOT NULL);
CREATE TABLE accepted (prediction_id TEXT NOT NULL, feedback_id TEXT NOT NULL, digest BLOB NOT NULL, accepted_at REAL NOT NULL,
                       PRIMARY KEY (prediction_id, feedback_id)) WITHOUT ROWID;
CREATE INDEX accepted_by_age ON accepted (accepted_at);
CREATE TABLE released (position INTEGER NOT NULL);
INSERT INTO released VALUES (0)
"""
_POLL = 0.015
"""Seconds between two looks at a file in which nothing is new."""
_PAGE_BYTES = 1 << 20
"""One read ends with the row that reaches this, so that a reader of a long backlog holds little of it, many times larger decoded."""
_TRIM_ROWS = 1000
"""Rows that one transaction removes at most, so that no writer waits long for it."""
_TRIM_SECONDS = 1.0
"""A log that keeps its rows for a window is not tidied more often than this."""


class Verdict(Enum):
    """What became of an event that was to be written."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # the same feedback came before; not stored again
    CONFLICT = "conflict"  # another feedback came before under this id; not stored


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of one transaction."""

    verdicts: list[Verdict]  # one per event, in order
    end: int  # everything accepted so far is at or before this position


class SqliteLog:
    """An EventLog of one partition, 0. Processes and threads may share the file; one row is one transaction's events."""

    def __init__(self, path: Path, *, capacity: int = 1 << 30, window: float = 86_400.0, retention: float | None = None) -> None:
        """Open or create the file. Ids of feedback stay for `window` seconds, released rows for `retention` (default: `window`).

        Raises Misconfigured when the file cannot be opened.
        """
        self._database = Database(path, schema=_SCHEMA, version=1)
        self.capacity = capacity
        self._window = window
        self._retention = window if retention is None else retention
        self._next_trim = 0.0

    @property
    def partitions(self) -> range:
        """One."""
        return range(1)

    def append(self, events: Sequence[Event], unreadable: Sequence[bytes] = ()) -> None:
        """See EventLog. A feedback that is there already is not stored again."""
        self.write(events)
        if unreadable:
            self._database.write(lambda connection: _insert(connection, [(0, record) for record in unreadable]))

    def write(self, events: Sequence[Event]) -> list[Verdict]:
        """Store events as one row, durably, and say of each what became of it. Raises Overloaded at capacity, Unavailable."""
        return self.store(events).verdicts

    def store(self, events: Sequence[Event]) -> Written:
        """As `write`, telling the position too."""

        def work(connection: sqlite3.Connection) -> Written:
            if _bytes(connection) >= self.capacity:
                raise Overloaded("the event log is full")
            verdicts = [_judge(connection, event) for event in events]
            accepted = [event for event, verdict in zip(events, verdicts, strict=True) if verdict is Verdict.ACCEPTED]
            if accepted:
                _insert(connection, [(len(accepted), encode(accepted))])
            return Written(verdicts, _end(connection))

        return self._database.write(work)

    def read(self, positions: Mapping[int, int], *, limit: int, timeout: float) -> Page:
        """See EventLog. A row that cannot be decoded comes as a record without events, with its bytes and what is wrong."""
        deadline = time.monotonic() + timeout
        while True:
            rows, end = self._database.read(lambda connection: _rows(connection, positions.get(0), limit))
            wait = min(_POLL, deadline - time.monotonic())
            if rows or wait <= 0:
                records = [record_of(0, position, content) for position, content in rows]
                return Page(records, at_end=frozenset({0} if not rows or rows[-1][0] >= end else ()))
            time.sleep(wait)

    def release(self, positions: Mapping[int, int]) -> None:
        """See EventLog."""
        if 0 not in positions or time.monotonic() < self._next_trim:
            return
        now = time.time()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE released SET position = max(position, ?)", (positions[0],))
            rows = connection.execute(
                "SELECT position, written_at FROM batch WHERE position < ? ORDER BY position LIMIT ?", (positions[0], _TRIM_ROWS)
            )
            last = max(
                (position for position, written_at in rows if self._retention == 0 or written_at <= now - self._retention), default=0
            )
            connection.execute("DELETE FROM batch WHERE position <= ?", (last,))
            connection.execute(
                "DELETE FROM accepted WHERE (prediction_id, feedback_id) IN "
                "(SELECT prediction_id, feedback_id FROM accepted WHERE accepted_at <= ? LIMIT ?)",
                (now - self._window, _TRIM_ROWS),
            )

        self._database.write(work)
        if self._retention > 0:
            self._next_trim = time.monotonic() + _TRIM_SECONDS

    @property
    def used_bytes(self) -> int:
        """Bytes in use: pages that are not free."""
        return self._database.read(_bytes)

    @property
    def fill(self) -> float:
        """Share of the capacity in use; a little above 1 when full."""
        return self.used_bytes / self.capacity

    @property
    def oldest(self) -> float:
        """Unix time of the oldest row that was not released; 0 when there is none."""
        statement = "SELECT written_at FROM batch WHERE position >= (SELECT position FROM released) ORDER BY position LIMIT 1"
        row = self._database.read(lambda connection: connection.execute(statement).fetchone())
        return float(row[0]) if row else 0.0

    @property
    def released(self) -> int:
        """The position before which everything was released."""
        return int(self._database.read(lambda connection: connection.execute("SELECT position FROM released").fetchone()[0]))

    @property
    def waiting(self) -> int:
        """Events that were not released."""
        statement = "SELECT coalesce(sum(events), 0) FROM batch WHERE position >= (SELECT position FROM released)"
        return int(self._database.read(lambda connection: connection.execute(statement).fetchone()[0]))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _insert(connection: sqlite3.Connection, rows: Iterable[tuple[int, bytes]]) -> None:
    """Add rows: how many events, and the record."""
    now = time.time()
    connection.executemany("INSERT INTO batch (written_at, events, record) VALUES (?, ?, ?)", [(now, *row) for row in rows])


def _judge(connection: sqlite3.Connection, event: Event) -> Verdict:
    """Enter a feedback or a labelled row among the accepted ones, or find it there. Other events are always accepted."""
    identity = identity_of(event)
    if identity is None:
        return Verdict.ACCEPTED
    digest = content_digest(event)
    if connection.execute("INSERT OR IGNORE INTO accepted VALUES (?, ?, ?, ?)", (*identity, digest, time.time())).rowcount:
        return Verdict.ACCEPTED
    known = connection.execute("SELECT digest FROM accepted WHERE prediction_id = ? AND feedback_id = ?", identity).fetchone()[0]
    return Verdict.DUPLICATE if known == digest else Verdict.CONFLICT


def _rows(connection: sqlite3.Connection, position: int | None, limit: int) -> tuple[list[tuple[int, bytes]], int]:
    """Rows from `position` on, and the highest position ever given. Raises LogTruncated when `position` is outside the log."""
    end = _end(connection)
    if position is not None:
        oldest = connection.execute("SELECT min(position) FROM batch").fetchone()[0] or end + 1
        if not (position >= oldest or oldest <= 1) or position > end + 1:
            raise LogTruncated([Gap(0, position, oldest)], "this event log")
    found: list[tuple[int, bytes]] = []
    size = 0
    statement = "SELECT position, record FROM batch WHERE position >= ? ORDER BY position LIMIT ?"
    with closing(connection.execute(statement, (position or 0, limit))) as rows:
        for row in rows:
            found.append(row)
            size += len(row[1])
            if size >= _PAGE_BYTES:
                break
    return found, end


def _end(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batch'").fetchone()
    return int(row[0]) if row else 0


def _bytes(connection: sqlite3.Connection) -> int:
    size, pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count"))
    return int(size * (pages - free))
