"""Which outbox belongs to whom: files 0.db, 1.db, ... in one folder, each held by a lock while a process uses it. Knows no broker."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Self

from liveloop.errors import Misconfigured
from liveloop.events.locks import FileLock, try_lock
from liveloop.events.salvage import mend
from liveloop.events.sqlite import SqliteLog
from liveloop.telemetry import logger


class Outbox:
    """An outbox this process holds. Its rows go as soon as they are released, the ids of accepted feedback stay for the window."""

    def __init__(self, path: Path, lock: FileLock, *, capacity: int, window: float) -> None:
        self._lock = lock
        try:
            mend(path)
            self.log = SqliteLog(path, capacity=capacity, window=window, retention=0.0)
        except OSError as error:
            lock.close()
            raise Misconfigured(f"the outbox {path} is damaged and cannot be set aside ({error.strerror}); check its folder") from error
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Close the file, then let others have it."""
        self.log.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def claim(folder: Path, *, capacity: int, window: float) -> Outbox:
    """The first outbox that nobody holds; a new one where all are held. Raises Misconfigured when the file cannot be opened."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in count():
        if lock := try_lock(folder / f"{number}.lock"):
            return Outbox(folder / f"{number}.db", lock, capacity=capacity, window=window)
    raise AssertionError("count() ended")


def orphans(folder: Path, *, capacity: int, window: float) -> Iterator[Outbox]:
    """Every outbox that nobody holds, held until the next one is asked for. One that cannot be opened is logged and passed over."""
    for path in sorted(folder.glob("*.db")):
        if lock := try_lock(path.with_suffix(".lock")):
            try:
                outbox = Outbox(path, lock, capacity=capacity, window=window)
            except Misconfigured as error:
                logger().error("an outbox nobody holds cannot be opened", reason=error.reason)
                continue
            with outbox:
                yield outbox
