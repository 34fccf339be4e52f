"""Keeps what a process writes for its owner alone. Knows folders and rights, not what is in them."""

from __future__ import annotations

import os
from pathlib import Path


def write_privately() -> None:
    """Whatever this process makes from now on is for its owner alone."""
    os.umask(0o077)


def keep_private(folder: Path) -> None:
    """As `write_privately`, and nobody else enters `folder`, which is made where it is not there: it guards what was made before, too.

    A folder of another owner (a mounted volume) keeps its rights.
    """
    write_privately()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o700)
