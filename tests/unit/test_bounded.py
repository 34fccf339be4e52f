"""Memory and files stay bounded: many open predictions in a window, and days of traffic with a clock that is told the time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bounded import DAY, Month

MOST_BYTES = 200_000_000


def growth(folder: Path, predictions: int) -> int:
    """Bytes by which a child process grew."""
    child = [sys.executable, "-P", "-m", "tests.bounded", str(folder), str(predictions)]
    root = Path(__file__).parents[2]
    return int(subprocess.run(child, check=True, capture_output=True, text=True, cwd=root, env={"PYTHONPATH": str(root)}).stdout)


def test_open_predictions_stay_on_disk(tmp_path: Path):
    assert growth(tmp_path, 20_000) < MOST_BYTES / 10


@pytest.mark.nightly
def test_a_million_open_predictions_cost_less_than_200_megabytes(tmp_path: Path):
    assert growth(tmp_path, 1_000_000) < MOST_BYTES


def stays_bounded(folder: Path, *, days: int, per_day: int, history: float) -> None:
    """From the day on which the oldest is old enough to go, tables and file grow no more."""
    sizes = list(Month(folder, per_day=per_day, history=history).days(days))
    full = 2 * int(history / DAY) + 3  # learnt from again at the end of `history`, an example stays as long once more
    for size in sizes[full:]:
        for table, rows in size.rows.items():
            assert 0 < rows <= 1.25 * max(earlier.rows[table] for earlier in sizes[:full]), table
        assert size.bytes <= 1.25 * max(earlier.bytes for earlier in sizes[:full])
    assert sizes[-1].rows["predictions"] < per_day * days / 2 and len(sizes) > full + 1


def test_tables_and_file_stay_bounded_over_days(tmp_path: Path):
    stays_bounded(tmp_path, days=12, per_day=240, history=2 * DAY)


@pytest.mark.nightly
def test_tables_and_file_stay_bounded_over_a_month(tmp_path: Path):
    stays_bounded(tmp_path, days=30, per_day=5_000, history=7 * DAY)
