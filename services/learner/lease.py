"""A SQLite file that one process at a time may write, told apart by an epoch. Knows the lease's table; knows nothing of learning."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from liveloop.errors import LiveloopError, Misconfigured

LEASE_SECONDS = 4.0
"""How long a holder may be silent before another process takes over; it renews with every transaction."""
_HUNG = 120.0
"""Seconds after which a holder that wrote nothing counts as hung: a load or a step of a large model takes less."""


class LeaseLost(LiveloopError):
    """Another process holds the lease: this one writes nothing more and stands by."""


class LeasedDatabase:
    """One connection, used by one thread; another one renews the lease in `held`. `clock` gives Unix seconds."""

    def __init__(self, path: Path, schema: str, *, version: int, holder: str, clock: Callable[[], float]) -> None:
        """Open or create the file; `schema` of this `version` makes its tables, `lease` among them. Raises Misconfigured."""
        self._path = path
        self._holder = holder
        self._clock = clock
        self.epoch = 0
        self._renewed = 0.0
        try:
            self.db = sqlite3.connect(path, isolation_level=None, timeout=30.0)
            self.db.execute("PRAGMA journal_mode = WAL")
            self.db.execute("PRAGMA synchronous = FULL")
            self.db.execute("PRAGMA secure_delete = ON")  # what is deleted leaves the file: zeros take its place
            self._create(schema, version)
        except sqlite3.Error as error:
            raise Misconfigured(f"the journal {path} cannot be opened: {error}") from error

    def _create(self, schema: str, version: int) -> None:
        found = self.db.execute("PRAGMA user_version").fetchone()[0]
        if not found and not self.db.execute("SELECT 1 FROM sqlite_schema").fetchone():
            self.db.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {version}; COMMIT")
        elif found != version:
            raise Misconfigured(f"the journal {self._path} has format {found}, this liveloop reads {version}; use the one that wrote it")

    def acquire(self, at_least: int) -> bool:
        """Take the lease with an epoch above `at_least` and all earlier ones, if nobody else's still runs.

        A file that stays locked is its holder's, who was stopped in the middle of a transaction: nobody else may write yet.
        """
        try:
            return self._take(at_least)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                return False
            raise _unwritable(error) from error

    def _take(self, at_least: int) -> bool:
        with self._immediate():
            epoch, holder, deadline = self.db.execute("SELECT epoch, holder, deadline FROM lease").fetchone()
            now = self._clock()
            if now <= deadline <= now + LEASE_SECONDS and holder != self._holder:  # later ones were set before the clock went back
                return False
            self.epoch = 1 + max(epoch, at_least)
            self.db.execute("UPDATE lease SET epoch = ?, holder = ?, deadline = ?", (self.epoch, self._holder, now + LEASE_SECONDS))
            self._renewed = now
            return True

    def renew(self) -> None:
        """Keep the lease while nothing else is written, if it is time to. Raises LeaseLost."""
        if abs(self._clock() - self._renewed) > LEASE_SECONDS / 4:  # either way: a clock that went back must not keep it from renewing
            with self.transaction():
                pass

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the block runs, a thread keeps the lease through what takes long and writes nothing: a load, a large model's step.

        It stops with the process, as on SIGSTOP or SIGKILL, and never takes the lease back.
        """
        done = threading.Event()
        thread = threading.Thread(target=self._keep, args=[done], name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _keep(self, done: threading.Event) -> None:
        while not done.wait(LEASE_SECONDS / 4):
            if LEASE_SECONDS / 4 < self._clock() - self._renewed < _HUNG:
                # A file that is locked is being written, which renews too; one that cannot be written is reported by who needs to.
                with suppress(sqlite3.OperationalError), closing(sqlite3.connect(self._path, isolation_level=None, timeout=1.0)) as db:
                    self._extend(db)

    def release(self) -> None:
        """Give the lease back for good, so that a successor need not wait: whoever still writes or renews finds it lost."""
        with _translated(), self._immediate():
            self.db.execute("UPDATE lease SET deadline = 0, holder = '' WHERE epoch = ? AND holder = ?", (self.epoch, self._holder))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction under the lease; within another one, a part of that.

        Raises:
            LeaseLost: another process holds it; nothing was changed.
            Misconfigured: the file cannot be written, as on a full disk. What was computed and not recorded must not be published.
        """
        if self.db.in_transaction:
            yield self.db
            return
        with _translated(), self._immediate():
            if not self._extend(self.db):
                raise LeaseLost("another learner holds the lease on this data folder")
            self._renewed = self._clock()
            yield self.db

    def _extend(self, db: sqlite3.Connection) -> bool:
        """Move the deadline on; False when another process took the lease."""
        mine = (self._clock() + LEASE_SECONDS, self.epoch, self._holder)
        return db.execute("UPDATE lease SET deadline = ? WHERE epoch = ? AND holder = ?", mine).rowcount > 0

    @contextmanager
    def _immediate(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.db.in_transaction:  # a full disk rolls back by itself
                self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self.db.close()


@contextmanager
def _translated() -> Iterator[None]:
    """Say in one sentence why SQLite cannot write. Raises Misconfigured."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unwritable(error) from error


def _unwritable(error: sqlite3.OperationalError) -> Misconfigured:
    full = "full" in str(error) or "disk" in str(error)
    hint = "free some disk space and start the learner again" if full else "is another program using it?"
    return Misconfigured(f"the journal cannot be written ({error}): {hint}")
