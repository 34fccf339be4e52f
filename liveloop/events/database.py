"""One SQLite file that processes and threads share: short transactions, patient with locks, one checkpoint at a time. Knows no events.

Every commit is on disk when it returns (WAL, synchronous=FULL). SQLite's automatic checkpoints are off, because two processes must
never checkpoint at once: SQLite before 3.51.3 can lose commits when they do.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from liveloop.errors import Misconfigured, Overloaded, Unavailable
from liveloop.events.locks import FileLock, try_lock
from liveloop.telemetry import logger

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_PATIENCE = 30.0
"""Seconds to go on trying for a lock: far above any holder's transaction, so that reaching it means the file is stuck."""
_CHECKPOINT_COMMITS = 64
"""A process checkpoints after this many of its commits: reads stay fast, and the cost of one is spread over many."""
_WAL_BYTES = 32 << 20
"""A write-ahead log file larger than this is cut back to nothing."""
_LOST = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


class Database:
    """A connection to write with and one to read with, each used by one thread at a time."""

    def __init__(self, path: Path, *, schema: str, version: int) -> None:
        """Open or create `path`. Raises Misconfigured when that cannot be done, or when it is not a file of this schema version."""
        self._path = path
        self._checkpoint_lock = path.with_name(f"{path.name}.checkpoint")
        self._wal = path.with_name(f"{path.name}-wal")
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._commits = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._checkpoint_lock):  # the change to WAL cannot wait for a lock, so two first openers must not meet
                self._writer = self._connect()
                self._create(schema, version)
                self._reader = self._connect()
        except (OSError, sqlite3.DatabaseError) as error:
            raise Misconfigured(f"the file {path} cannot be opened as a database ({error}); check its folder, rights and space") from error

    def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction that is durable on return; `work` may run again after a rollback. Raises Overloaded, Unavailable."""
        with self._write_lock:
            result = self._transact(self._writer, "BEGIN IMMEDIATE", work)
            self._commits += 1
            if self._commits >= _CHECKPOINT_COMMITS:
                self._commits = 0
                self._checkpoint()
            return result

    def read(self, work: Work[T]) -> T:
        """Run `work` on one snapshot. Raises Unavailable."""
        with self._read_lock:
            return self._transact(self._reader, "BEGIN", work)

    def close(self) -> None:
        """Close both connections once they are idle. The last process to close also checkpoints, hence the lock."""
        with FileLock(self._checkpoint_lock), self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=0.25, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    def _create(self, schema: str, version: int) -> None:
        found = self._transact(self._writer, "BEGIN", lambda connection: int(connection.execute("PRAGMA user_version").fetchone()[0]))
        if found not in (0, version):
            raise Misconfigured(f"{self._path} has format {found}, this liveloop reads {version}; use the one that wrote it")
        if found == 0:
            self._writer.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {version}; COMMIT")

    def _transact(self, connection: sqlite3.Connection, begin: str, work: Work[T]) -> T:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return _attempt(connection, begin, work)
            except sqlite3.DatabaseError as error:
                code = error.sqlite_errorcode & 0xFF
                if code == sqlite3.SQLITE_FULL:
                    raise Overloaded(f"no space left for {self._path}") from error
                if code in _LOST:
                    raise Unavailable(f"the file {self._path} cannot be used: {error}") from error
                if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
                if time.monotonic() > deadline:
                    raise Unavailable(f"the file {self._path} has been locked for {_PATIENCE:.0f} s") from error
            time.sleep(0.002)

    def _checkpoint(self) -> None:
        try:
            lock = try_lock(self._checkpoint_lock)
            if lock is None:  # another process is at it
                return
            with lock:
                mode = "TRUNCATE" if self._wal.stat().st_size > _WAL_BYTES else "PASSIVE"
                self._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        except (OSError, sqlite3.DatabaseError) as error:  # what was committed stands in the WAL; the next one tries again
            logger().warning("checkpoint failed", file=str(self._path), reason=str(error))


def _attempt(connection: sqlite3.Connection, begin: str, work: Work[T]) -> T:
    connection.execute(begin)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result
