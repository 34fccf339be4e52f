"""An outbox file that was damaged: set aside for a person, and what can still be read put into a new one. Knows rows, not their meaning.

N.db.copy      what is read, so that the damaged file stays as it was found
N.db.mending   the new file while it is filled
N.db.mended    the new file, complete: from here on a crash anywhere is finished by the next process
N.db.damaged-T the file that was found, with its write-ahead log beside it, T in Unix seconds
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from liveloop.events.codec import record_of
from liveloop.events.sqlite import SqliteLog
from liveloop.telemetry import logger
from liveloop.v1.events_pb2 import Event

_PAGE = 4096
"""SQLite's page size in every file that this project writes."""
_LEAST_ROW = 32
"""No row of the log takes fewer bytes: bounds the search where the file no longer says how far it reaches."""
_GROUP_EVENTS = 512
"""Events written at once: one fsync for all of them."""


def mend(path: Path) -> None:
    """Replace a damaged outbox that this process holds, or one whose replacement was cut short. Does nothing to a sound one.

    Raises OSError, as when there is no space for the copies.
    """
    mended = _beside(path, "mended")
    if not mended.exists():
        if not path.exists() or (reason := damage(path)) is None:
            return
        kept, lost = _salvage(path, mended)
        logger().error(
            "the outbox was damaged: it is set aside, and what could be read is delivered",
            file=str(path),
            reason=reason,
            events_kept=kept,
            rows_lost=lost,
        )
    _replace(path, mended)


def damage(path: Path) -> str | None:
    """What is wrong with the file's structure; nothing when it is sound. A change within one row's bytes is not seen."""
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                return None  # its maker died before there was anything in it
            connection.execute("SELECT position FROM released").fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
                return None  # locked, or not to be read at all: opening it says why
            return str(error)
    return None if found == "ok" else found


def _salvage(path: Path, mended: Path) -> tuple[int, int]:
    """Fill `mended`; how many events were kept and how many rows lost."""
    mending, copy = _beside(path, "mending"), _beside(path, "copy")
    _remove(mending)
    _copy(path, copy)
    kept = lost = 0
    with SqliteLog(mending) as log:
        if not _readable(copy):
            _copy(path, copy)
            _give_first_page(copy, mending)
        group: list[Event] = []
        for position, content in _rows(copy):
            events = record_of(0, position, content).events if content else ()
            kept, lost = kept + len(events), lost + (not events)
            group += events
            if len(group) >= _GROUP_EVENTS:
                log.append(group)
                group = []
        if group:
            log.append(group)
    _remove(copy)
    mending.rename(mended)
    return kept, lost


def _rows(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Every row that was not released, each looked up by itself, so that one damaged page costs only what is on it."""
    with closing(sqlite3.connect(path)) as connection:
        first = _number(connection, "SELECT position FROM released") or 1
        last = _number(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'batch'")
        last = max(last or 0, _number(connection, "SELECT max(position) FROM batch") or 0)
        known = last > 0
        for position in range(max(1, first), (last if known else path.stat().st_size // _LEAST_ROW) + 1):
            try:
                row = connection.execute("SELECT record FROM batch WHERE position = ?", (position,)).fetchone()
            except sqlite3.DatabaseError:
                row = (None,)
            if row is not None or known:
                yield position, row and row[0]


def _number(connection: sqlite3.Connection, statement: str) -> int | None:
    try:
        row = connection.execute(statement).fetchone()
    except sqlite3.DatabaseError:
        return None
    return int(row[0]) if row and isinstance(row[0], int) else None


def _readable(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        try:
            return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'batch'").fetchone()[0])
        except sqlite3.DatabaseError:
            return False


def _give_first_page(path: Path, sound: Path) -> None:
    """The first page holds the header and the schema, which are the same in every outbox but for counters that SQLite can do without."""
    with closing(sqlite3.connect(sound)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    page = bytearray(sound.read_bytes()[:_PAGE])
    page[24:28] = (1).to_bytes(4, "big")  # the change counter differs from the one that vouches for the size written below it,
    page[92:96] = (2).to_bytes(4, "big")  # so the size of the file counts
    with path.open("r+b") as file:
        file.write(page)


def _replace(path: Path, mended: Path) -> None:
    stamp = int(mended.stat().st_mtime)
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{path}.damaged-{stamp}{suffix}")
    Path(f"{path}-shm").unlink(missing_ok=True)
    mended.rename(path)


def _copy(path: Path, copy: Path) -> None:
    _remove(copy)
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".checkpoint"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")
