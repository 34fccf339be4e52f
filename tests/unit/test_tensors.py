"""Sets of tensors: the last ones always stay, and one a day for as long as the history lasts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from services.learner.tensors import TensorCache

DAY = 86_400


def rows(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.safetensors"))


def test_the_last_three_sets_stay_and_one_of_every_day_of_the_history(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, history=30 * DAY)
    midday = time.time() // DAY * DAY - DAY / 2
    days = {row: (200 - row) // 5 for row in range(1, 201)}  # five sets a day, the newest last
    for row, days_ago in days.items():
        cache.save(row, {"a": torch.zeros(1)}, wait=True)
        written = midday - days_ago * DAY + row % 5
        os.utime(tmp_path / f"{row:012d}.safetensors", (written, written))
    cache.save(201, {"a": torch.zeros(1)}, wait=True)
    kept = rows(tmp_path)
    assert kept[-3:] == [199, 200, 201]
    assert all(days[row] <= 30 for row in kept[:-3])
    older = [days[row] for row in kept[:-3]]
    assert len(older) == len(set(older)) >= 28


def test_a_set_half_written_is_removed_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    TensorCache(tmp_path, history=DAY).save(1, {"a": torch.ones(1)}, wait=True)
    (tmp_path / f"{2:012d}.safetensors").write_bytes(b"damaged")
    (tmp_path / f"{3:012d}.partial").write_bytes(b"half")
    found = TensorCache(tmp_path, history=DAY).newest()
    assert found is not None
    assert found[0] == 1
    assert not list(tmp_path.glob("*.partial"))
