"""Blobs moved a batch at a time, the next batch while the last is used. Knows one store; knows nothing of what blobs mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from liveloop.weights.store import WeightStore

BATCH = 8
"""Blobs moved at once: with those that are used meanwhile 16 MiB at most are in memory."""

_Item = TypeVar("_Item")


def read_ahead(store: WeightStore, names: Sequence[str]) -> Iterator[bytes]:
    """The blobs of these names, in order; a first batch is here when this returns.

    Raises:
        BlobMissing, BlobCorrupt, Unavailable: now or later, as does `WeightStore.get`.
    """
    first, *rest = batches(names) if names else [()]
    blobs = store.get(first)
    return _followed(blobs, store, rest) if rest else iter(blobs)


def batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """`items`, BATCH at a time."""
    for first in range(0, len(items), BATCH):
        yield items[first : first + BATCH]


def _followed(blobs: list[bytes], store: WeightStore, rest: Sequence[Sequence[str]]) -> Iterator[bytes]:
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        for batch in rest:
            following: Future[list[bytes]] = reader.submit(store.get, batch)
            yield from blobs
            blobs = following.result()
        yield from blobs
