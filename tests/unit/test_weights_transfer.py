"""Blobs come in order, and the next ones are on their way while the first are used."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from liveloop.errors import BlobMissing
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.store import blob_name, named
from liveloop.weights.transfer import BATCH, batches, read_ahead

PATIENCE = 30.0


class Watched(DirectoryStore):
    """Tells what was asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads: list[int] = []
        self.asked = threading.Semaphore(0)

    def get(self, names: Sequence[str]) -> list[bytes]:
        self.reads.append(len(names))
        self.asked.release()
        return super().get(names)


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def contents(count: int) -> list[bytes]:
    return [bytes([number]) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 5 * BATCH - 1])
def test_blobs_come_in_order_a_batch_at_a_time(store: Watched, count: int) -> None:
    store.put(named(contents(count)))
    assert list(read_ahead(store, [blob_name(blob) for blob in contents(count)])) == contents(count)
    assert store.reads == ([len(batch) for batch in batches(contents(count))] or [0])
    assert max(store.reads, default=0) <= BATCH


def test_the_next_batch_is_read_while_the_first_is_used_and_no_other(store: Watched) -> None:
    store.put(named(contents(4 * BATCH)))
    blobs = read_ahead(store, [blob_name(blob) for blob in contents(4 * BATCH)])
    assert store.asked.acquire(timeout=PATIENCE)
    assert next(blobs) == contents(1)[0]
    assert store.asked.acquire(timeout=PATIENCE)
    for _ in range(BATCH - 1):
        next(blobs)
    assert len(store.reads) == 2


def test_a_blob_that_is_missing_later_is_an_error_where_it_is_needed(store: Watched) -> None:
    store.put(named(contents(BATCH)))
    blobs = read_ahead(store, [blob_name(blob) for blob in contents(BATCH + 1)])
    assert [next(blobs) for _ in range(BATCH)] == contents(BATCH)
    with pytest.raises(BlobMissing):
        next(blobs)
