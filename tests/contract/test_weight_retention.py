"""Stores keep what the design says and no more, however long the learner publishes; pods fetch no more than they must."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from liveloop.weights import open_store
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.mirror import Copier
from liveloop.weights.patch import Bits
from liveloop.weights.publisher import KEYFRAME_INTERVAL, Publisher
from liveloop.weights.records import Records
from liveloop.weights.state import chunk_count, chunk_of
from liveloop.weights.store import WeightStore
from liveloop.weights.subscriber import Subscriber
from tests.weight_samples import FROZEN, KEY, TOTAL, Versions, bundle, finite_bits

DAY = 432_000
"""Versions in a day at five a second."""

COLLECTED_EVERY = 50
"""Versions between two collections, of which the learner makes one every ten seconds."""

BLESSED_KEPT = 10
SMALL = 2000


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is possible: a day of versions is a million files made durable."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("count", [1500, pytest.param(DAY, marks=[pytest.mark.nightly, pytest.mark.timeout(7200)])])
def test_both_stores_keep_no_more_after_a_day_than_the_kept_versions_need(folder: Path, redis_url: str, count: int) -> None:
    source = DirectoryStore(folder)
    with (
        open_store(f"{redis_url}?prefix=test-{uuid.uuid4().hex}") as target,
        Publisher.first(source, KEY, bundle(SMALL, 500), finite_bits(total=SMALL)) as publisher,
    ):
        copier, blessed = Copier(source, target), deque[int](maxlen=BLESSED_KEPT)
        for version in range(2, count + 2):
            publish(publisher, version)
            if version % 25 == 0:
                publisher.bless(version)
                blessed.append(version)
            if version % 5 == 0:
                copier.copy(source.head() or b"")
            if version % COLLECTED_EVERY == 0:
                publisher.collect(blessed)
                copier.copy(source.head() or b"")
                copier.drop_collected()
                assert_bounded(folder, source, target, publisher)


def publish(publisher: Publisher, version: int) -> None:
    """One value moves."""
    bits = publisher.state.bits.copy()
    bits[500 + version % 1500] ^= 1
    publisher.publish(publisher.stage(bits), version=version, step=version, included=[float(version)], created_at=1e9 + version)
    publisher.close()


def assert_bounded(folder: Path, source: WeightStore, target: WeightStore, publisher: Publisher) -> None:
    """Each kept version costs at most a keyframe and the versions since; they are the first, the blessed and the current one."""
    head = publisher.head
    assert len(head.chain) <= KEYFRAME_INTERVAL + 2
    assert len(head.kept) <= BLESSED_KEPT + 1
    assert len(list((folder / "heads").iterdir())) <= 16 + 1  # and the lock
    names = set(source.names())
    assert names == Records(source, KEY.public_key()).needs(head) == set(target.names())
    keyframe = chunk_count(SMALL) + 1
    assert len(names) <= len(publisher.bundle.files) + (BLESSED_KEPT + 2) * (keyframe + 2 * (KEYFRAME_INTERVAL + 2))
    assert sum(len(blob) for blob in source.get(sorted(names))) <= (BLESSED_KEPT + 2) * (2 * SMALL + (KEYFRAME_INTERVAL + 2) * 1500)


class Counting:
    """A store that counts the bytes of what it gives."""

    def __init__(self, inner: WeightStore) -> None:
        self._inner = inner
        self.given: dict[str, int] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def get(self, names: list[str]) -> list[bytes]:
        blobs = self._inner.get(names)
        self.given.update(zip(names, map(len, blobs), strict=True))
        return blobs


@pytest.mark.parametrize(("behind", "changes"), [(1, 30), (5, TOTAL - FROZEN), (70, 30), (70, 20_000), (100, 20_000)])
def test_a_pod_behind_fetches_the_fewer_bytes_of_keyframe_and_chain(tmp_path: Path, behind: int, changes: int) -> None:
    store = DirectoryStore(tmp_path)
    versions, counting = Versions(store), Counting(store)
    pod = Subscriber(counting, KEY.public_key())  # type: ignore[arg-type]
    pod.start()
    before = pod.state.bits.copy()
    for _ in range(behind):
        versions.publish(changes=changes)
        versions.publisher.close()
    counting.given.clear()
    assert pod.next(30.0) is not None
    assert np.array_equal(pod.state.bits, versions.bits[1 + behind])
    chain = versions.publisher.head.chain
    names = {*versions.manifests.values(), *(link.manifest for link in chain)}
    patches = {manifest.version: manifest.patch_bytes for manifest in Records(store, KEY.public_key()).manifests(sorted(names))}
    since_keyframe = sum(size for version, size in patches.items() if version > chain[0].version)
    over_keyframe = differing_chunks(before, versions.bits[chain[0].version]) + since_keyframe
    fetched = sum(size for name, size in counting.given.items() if name not in names)
    assert fetched <= min(sum(patches.values()), over_keyframe) + 32 * chunk_count(TOTAL)


def differing_chunks(one: Bits, other: Bits) -> int:
    """Bytes of the chunks that are not the same."""
    pairs = [(chunk_of(one, chunk), chunk_of(other, chunk)) for chunk in range(chunk_count(len(one)))]
    return sum(left.nbytes for left, right in pairs if not np.array_equal(left, right))


def test_a_new_pod_fetches_every_blob_once(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    versions, counting = Versions(store), Counting(store)
    for _ in range(20):
        versions.publish()
    asked: list[str] = []
    get = counting.get
    counting.get = lambda names: asked.extend(names) or get(names)  # type: ignore[method-assign,func-returns-value]
    pod = Subscriber(counting, KEY.public_key())  # type: ignore[arg-type]
    pod.start()
    assert sorted(asked) == sorted(Records(store, KEY.public_key()).needs(versions.publisher.head, kept=False))
