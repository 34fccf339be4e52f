"""The journal's numbers as TensorBoard reads them. Knows TensorBoard's writer; the numbers are the journal's."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from services.commands.report.steps import scalars

_SUFFIX = ".liveloop"
_ROWS = 10_000
"""Rows under each tag, ten times what TensorBoard shows."""


def write_event_files(db: sqlite3.Connection, folder: Path) -> None:
    """One run in `folder`, in place of the one that was written there before. A step is a row, its time when that was made."""
    for old in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
        old.unlink()
    with SummaryWriter(folder, filename_suffix=_SUFFIX) as writer:
        for one in scalars(db, _ROWS):
            writer.add_scalar(one.tag, one.value, one.row, one.at)
