"""Redis is a copy of the learner's truth: it becomes one again whatever happened to it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import redis

from liveloop.errors import BlobCorrupt, HeadConflict, Misconfigured, Unavailable
from liveloop.weights import mirror as mirroring
from liveloop.weights import open_store
from liveloop.weights import publisher as publishing
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.head import read_head
from liveloop.weights.mirror import Copier, Mirror
from liveloop.weights.publisher import Publisher
from liveloop.weights.records import Records
from liveloop.weights.store import WeightStore
from liveloop.weights.subscriber import Subscriber
from tests.servers import ValkeyServer, wait_until
from tests.weight_samples import FROZEN, KEY, TOTAL, Versions, step

PATIENCE = 30.0


@pytest.fixture
def source(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "weights")


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def target(redis_url: str, prefix: str) -> Iterator[WeightStore]:
    with open_store(f"{redis_url}?prefix={prefix}") as store:
        yield store


@contextmanager
def running(source: WeightStore, target: WeightStore, *, take_over: bool = False) -> Iterator[Mirror]:
    thread = Mirror(source, target, take_over=take_over)
    thread.start()
    try:
        yield thread
    finally:
        thread.close(PATIENCE)


def copied(source: WeightStore, target: WeightStore) -> bool:
    head = source.head()
    assert head is not None
    return Copier(source, target).copy(head)


def started(store: WeightStore) -> Subscriber:
    pod = Subscriber(store, KEY.public_key())
    pod.start()
    return pod


def forget_everything(redis_url: str, prefix: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"{{{prefix}}}:*"):
            client.delete(key)


def test_a_mirrored_store_serves_the_same_bits(source: DirectoryStore, target: WeightStore) -> None:
    versions = Versions(source)
    assert copied(source, target)
    pod = started(target)
    versions.publish()
    assert copied(source, target)
    assert not copied(source, target)
    update = pod.next(PATIENCE)
    assert update is not None
    assert update.version == 2
    assert np.array_equal(pod.state.bits, versions.bits[2])


def test_two_pods_hold_the_same_bits_as_versions_flow(source: DirectoryStore, target: WeightStore) -> None:
    versions = Versions(source)
    with running(source, target) as thread:
        wait_until(lambda: target.head() is not None)
        pods = [started(target), started(target)]
        for _ in range(5):
            versions.publish()
            thread.notify()
        for pod in pods:
            while pod.version < 6:
                assert pod.next(PATIENCE) is not None
            assert np.array_equal(pod.state.bits, versions.bits[6])


def test_an_empty_source_is_unavailable(source: DirectoryStore, target: WeightStore) -> None:
    with running(source, target) as thread:
        wait_until(lambda: isinstance(thread.failure, Unavailable))


def test_a_mirror_survives_an_error_that_nobody_foresaw(
    source: DirectoryStore, target: WeightStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Versions(source)
    head, errors = DirectoryStore.head, [MemoryError(), ValueError("unforeseen")]

    def failing_head(self: DirectoryStore) -> bytes | None:
        if threading.current_thread().name == "mirror" and errors:
            raise errors.pop()
        return head(self)

    monkeypatch.setattr(DirectoryStore, "head", failing_head)
    with running(source, target) as thread:
        wait_until(lambda: thread.failure is None and target.head() == source.head())
    assert not errors


def test_a_flushed_redis_is_filled_again(
    source: DirectoryStore, target: WeightStore, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "_CHECK", 0.1)
    Versions(source)
    with running(source, target):
        wait_until(lambda: target.head() is not None)
        forget_everything(redis_url, prefix)
        wait_until(lambda: target.head() == source.head())
    assert target.missing(source.names()) == set()


def test_a_blob_that_redis_lost_is_put_back(source: DirectoryStore, target: WeightStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "_CHECK", 0.1)
    Versions(source)
    with running(source, target):
        wait_until(lambda: target.head() is not None)
        target.delete(source.names())
        wait_until(lambda: target.missing(source.names()) == set())


def test_a_blob_that_redis_damaged_is_put_back(
    source: DirectoryStore, target: WeightStore, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "_CHECK", 0.1)
    monkeypatch.setattr(mirroring, "_MENDED", 3)
    versions = Versions(source)
    versions.publish()
    with running(source, target), redis.Redis.from_url(redis_url) as client:
        wait_until(lambda: target.head() == source.head())
        keys = [f"{{{prefix}}}:blob:{name}" for name in source.names()]
        for key in keys:
            client.set(key, b"damaged")
        wait_until(lambda: b"damaged" not in client.mget(keys))
    assert np.array_equal(started(target).state.bits, versions.bits[2])


def test_a_store_that_went_back_is_asked_for_everything_at_the_next_version(
    source: DirectoryStore, target: WeightStore, redis_url: str, prefix: str
) -> None:
    versions = Versions(source)
    copier = Copier(source, target)
    blob = source.head()
    assert blob is not None
    copier.copy(blob)
    forget_everything(redis_url, prefix)
    versions.publish()
    blob = source.head()
    assert blob is not None
    copier.copy(blob)
    assert np.array_equal(started(target).state.bits, versions.bits[2])


def test_a_full_redis_is_rid_of_what_was_collected_to_take_what_is_new(
    tmp_path: Path, source: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "_CHECK", 0.2)
    monkeypatch.setattr(publishing, "KEYFRAME_INTERVAL", 2)
    versions, server = Versions(source), ValkeyServer(tmp_path / "valkey")
    server.start()
    try:
        with open_store(server.url) as store, redis.Redis.from_url(server.url) as client:
            copied(source, store)
            for _ in range(14):
                versions.publish(changes=TOTAL - FROZEN)
                versions.publisher.close()
                copied(source, store)
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
            versions.publisher.collect([])
            versions.publish(changes=TOTAL - FROZEN)
            with running(source, store):
                wait_until(lambda: store.head() == source.head())
            assert np.array_equal(started(store).state.bits, versions.bits[16])
    finally:
        server.kill()


def test_what_is_dropped_is_never_what_another_head_in_the_target_needs(
    tmp_path: Path, source: DirectoryStore, target: WeightStore
) -> None:
    versions, other = Versions(source), DirectoryStore(tmp_path / "other")
    copier = Copier(source, target)
    blob = source.head()
    assert blob is not None
    copier.copy(blob)
    copied(source, other)
    with Publisher(other, KEY, epoch=2) as successor:
        bits = step(versions.bits[1], 9)
        successor.publish(successor.stage(bits), version=2, step=2, included=[], created_at=0.0)
    copied(other, target)
    copier.drop_collected()
    assert np.array_equal(started(target).state.bits, bits)


def test_redis_may_be_away_at_the_start_and_later(tmp_path: Path, source: DirectoryStore) -> None:
    versions, server = Versions(source), ValkeyServer(tmp_path / "valkey")
    with open_store(server.url) as store, running(source, store) as thread:
        try:
            wait_until(lambda: isinstance(thread.failure, Unavailable))
            server.start()
            wait_until(lambda: thread.failure is None and store.head() == source.head())
            server.kill()
            versions.publish()
            thread.notify()
            wait_until(lambda: isinstance(thread.failure, Unavailable))
            server.start()
            wait_until(lambda: thread.failure is None and store.head() == source.head())
            assert np.array_equal(started(store).state.bits, versions.bits[2])
        finally:
            server.kill()


def test_redis_keeps_what_the_source_keeps(source: DirectoryStore, target: WeightStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "_CHECK", 0.1)
    monkeypatch.setattr(publishing, "KEYFRAME_INTERVAL", 3)
    versions = Versions(source)
    with running(source, target) as thread:
        for _ in range(10):
            versions.publish()
            versions.publisher.close()
            thread.notify()
            wait_until(lambda: target.head() == source.head())
        before = set(target.names())
        versions.publisher.collect([])
        thread.notify()
        wait_until(lambda: target.head() == source.head() and set(target.names()) == set(source.names()))
    assert set(target.names()) < before
    assert Records(target, KEY.public_key()).needs(read_head(target, KEY.public_key())) <= set(target.names())
    assert np.array_equal(started(target).state.bits, versions.bits[11])


def test_another_model_in_redis_stops_the_mirror_until_it_may_take_over(
    tmp_path: Path, source: DirectoryStore, target: WeightStore
) -> None:
    other = DirectoryStore(tmp_path / "other")
    Versions(other, model="other")
    copied(other, target)
    Versions(source, epoch=2)
    with pytest.raises(Misconfigured, match="another model"):
        copied(source, target)
    with running(source, target) as thread:
        wait_until(lambda: isinstance(thread.failure, Misconfigured))
    assert target.head() == other.head()
    with running(source, target, take_over=True):
        wait_until(lambda: target.head() == source.head())
    assert started(target).bundle.model == "sample"


def test_a_learner_with_an_old_epoch_does_not_move_the_head_of_redis(tmp_path: Path, source: DirectoryStore, target: WeightStore) -> None:
    versions = Versions(source)
    copied(source, target)
    ahead = DirectoryStore(tmp_path / "ahead")
    ahead.put({name: source.get([name])[0] for name in source.names()})
    head = source.head()
    assert head is not None
    ahead.set_head(head, epoch=1, revision=1, expected=None)
    Publisher(ahead, KEY, epoch=5).close()
    copied(ahead, target)
    versions.publish()
    with pytest.raises(HeadConflict):
        copied(source, target)
    assert target.head() == ahead.head()


def test_a_damaged_source_is_not_copied(tmp_path: Path, source: DirectoryStore, target: WeightStore) -> None:
    versions = Versions(source)
    copied(source, target)
    good = target.head()
    versions.publish()
    name = next(name for name in source.names() if name not in set(target.names()) and name != versions.manifests[2])
    (tmp_path / "weights" / "blobs" / name[:2] / name).write_bytes(b"damaged")
    with pytest.raises(BlobCorrupt):
        copied(source, target)
    assert target.head() == good


def test_closing_copies_the_last_version(source: DirectoryStore, target: WeightStore) -> None:
    versions = Versions(source)
    thread = Mirror(source, target)
    thread.start()
    wait_until(lambda: target.head() is not None)
    versions.publish()
    thread.close(PATIENCE)
    assert target.head() == source.head()
