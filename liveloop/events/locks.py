"""A lock that dies with its holder: flock(2) on a file of its own. Knows nothing of what it guards."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self


class FileLock:
    """Held from construction until close, or until the process ends. Two holders in one process exclude each other as well.

    The locked file must not be a SQLite database: closing a second descriptor of one would drop SQLite's own locks.
    """

    def __init__(self, path: Path, *, wait: bool = True) -> None:
        """Take the lock. Raises BlockingIOError when somebody else holds it and `wait` is false."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def try_lock(path: Path) -> FileLock | None:
    """The lock, or None while somebody else holds it."""
    try:
        return FileLock(path, wait=False)
    except BlockingIOError:
        return None
