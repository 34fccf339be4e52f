"""The cache of master, moments and EMA on disk: saved in the background, found again at a restart. Knows files, not what they mean."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from liveloop import crash, telemetry

_KEEP = 3
"""Sets that always stay: one may be half written, one damaged."""
_DAY = 86_400.0

_log = telemetry.logger(part="tensors")


class TensorCache:
    """Sets of tensors by the journal row after which they were taken."""

    def __init__(self, folder: Path, *, history: float) -> None:
        """`history`: seconds for which one set a day is kept."""
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob("*.partial"):  # of a process that was killed while it wrote
            partial.unlink()
        self._folder = folder
        self._history = history
        self._writer: threading.Thread | None = None

    def save(self, row: int, tensors: dict[str, torch.Tensor], *, wait: bool = False) -> None:
        """Write a set, in the background unless `wait`. `tensors` are copies that nobody changes."""
        self.close()
        self._writer = threading.Thread(target=self._write, args=(row, tensors), name="tensors")
        self._writer.start()
        if wait:
            self.close()

    def newest(self, usable: Callable[[int], bool] = lambda _: True) -> tuple[int, dict[str, torch.Tensor]] | None:
        """The newest set that can be read, with its row, of those whose row is `usable`."""
        return newest_set(self._folder, usable)

    def newest_row(self) -> int:
        """The row of the newest set; 0 where there is none."""
        return max((row for row, _ in _sets(self._folder)), default=0)

    def remove(self, first: int, until: int) -> None:
        """Delete the sets of rows from `first` on and before `until`."""
        self.close()
        for row, path in _sets(self._folder):
            if first <= row < until:
                path.unlink()

    def close(self) -> None:
        """Wait for a write that is under way."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, row: int, tensors: dict[str, torch.Tensor]) -> None:
        target = self._folder / f"{row:012d}.safetensors"
        partial = target.with_suffix(".partial")
        try:
            save_file(tensors, partial)
            crash.point("before-tensor-fsync")
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(target)
            crash.point("after-tensor-rename")
            self._prune()
        except (SafetensorError, OSError) as error:
            _log.error("the tensors could not be saved; a restart redoes more rows", row=row, error=str(error))
            partial.unlink(missing_ok=True)

    def _prune(self) -> None:
        sets = sorted(_sets(self._folder), reverse=True)
        days: set[int] = set()
        for rank, (_, path) in enumerate(sets):
            written = path.stat().st_mtime
            day = int(written // _DAY)
            first_of_its_day = day not in days and written > time.time() - self._history
            days.add(day)
            if rank >= _KEEP and not first_of_its_day:
                path.unlink()


def newest_set(folder: Path, usable: Callable[[int], bool]) -> tuple[int, dict[str, torch.Tensor]] | None:
    """The newest set in a folder that can be read, with its row, of those whose row is `usable`. Writes nothing."""
    for row, path in sorted(_sets(folder), reverse=True):
        if usable(row):
            try:
                return row, load_file(path)
            except (SafetensorError, OSError) as error:
                _log.warning("a set of tensors cannot be read; trying an older one", row=row, error=str(error))
    return None


def _sets(folder: Path) -> list[tuple[int, Path]]:
    return [(int(path.stem), path) for path in folder.glob("*.safetensors")]
