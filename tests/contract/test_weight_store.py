"""What every weight store must do, in a directory and in a real Valkey."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from liveloop.errors import BlobCorrupt, BlobMissing, HeadConflict, Misconfigured, Unavailable
from liveloop.v1.weights_pb2 import ChainLink, Head
from liveloop.weights import open_store
from liveloop.weights.manifest import HeadKey, sign
from liveloop.weights.redis_client import client_for, parse
from liveloop.weights.store import BLOB_LIMIT, WeightStore, blob_name, named
from tests.weight_samples import KEY

Open = Callable[[], WeightStore]
Damage = Callable[[str, bytes], None]


@pytest.fixture
def prefix() -> str:
    """The key prefix of this test alone."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture(params=["directory", "redis", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> str:
    """Of this test's own store, which is empty."""
    if request.param == "directory":
        return tmp_path.as_uri()
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_url')}?prefix={prefix}"
    return f"{request.getfixturevalue({'sentinel': 'watched', 'cluster': 'cluster'}[request.param]).url}?prefix={prefix}"


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    """Opens this test's own store; each call is another process's view of it."""
    stores: list[WeightStore] = []

    def open_it() -> WeightStore:
        stores.append(open_store(url))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


@pytest.fixture
def damage(url: str, prefix: str, tmp_path: Path) -> Damage:
    """Puts other bytes under a blob's name, behind the store's back."""
    if url.startswith("redis"):

        def in_redis(name: str, content: bytes) -> None:
            with client_for(parse(url), password_file=None, ca_file=None) as client:
                client.set(f"{{{prefix}}}:blob:{name}", content)

        return in_redis
    return lambda name, content: (tmp_path / "blobs" / name[:2] / name).write_bytes(content) and None


def head(epoch: int, revision: int, *, mark: bytes = b"") -> bytes:
    record = Head(format=1, epoch=epoch, revision=revision, current=1, chain=[ChainLink(version=1)], model_digest=mark)
    return sign("head", record.SerializeToString(), KEY)


def set_head(store: WeightStore, epoch: int, revision: int, expected: HeadKey | None, *, mark: bytes = b"") -> None:
    store.set_head(head(epoch, revision, mark=mark), epoch=epoch, revision=revision, expected=expected)


BLOBS = named([b"", b"\x00\xff\r\n", bytes(range(256)) * 16, bytes(BLOB_LIMIT)])


def test_blobs_come_back_as_they_were_in_the_order_asked_for(opened: Open) -> None:
    opened().put(BLOBS)
    names = [*reversed(BLOBS), *BLOBS]
    assert opened().get(names) == [BLOBS[name] for name in names]
    assert opened().get([]) == []


def test_putting_a_blob_again_is_harmless(opened: Open) -> None:
    for _ in range(2):
        opened().put(BLOBS)
    assert set(opened().names()) == set(BLOBS)
    assert opened().get(list(BLOBS)) == list(BLOBS.values())


def test_many_threads_may_put_the_same_blobs(opened: Open) -> None:
    threads = [threading.Thread(target=opened().put, args=[BLOBS]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened().get(list(BLOBS)) == list(BLOBS.values())


def test_a_blob_that_is_not_there_is_missing(opened: Open) -> None:
    store, absent = opened(), blob_name(b"absent")
    store.put(BLOBS)
    assert store.missing([absent, *BLOBS]) == {absent}
    with pytest.raises(BlobMissing):
        store.get([*BLOBS, absent])


def test_a_name_that_is_no_digest_finds_nothing(opened: Open) -> None:
    store = opened()
    store.put(BLOBS)
    for name in ("", "../heads/lock", "A" * 64):
        with pytest.raises(BlobMissing):
            store.get([name])


def test_bytes_that_do_not_match_their_name_are_refused(opened: Open, damage: Damage) -> None:
    store, name = opened(), blob_name(b"content")
    store.put({name: b"content"})
    for content in (b"Content", b"conten", b"content" * BLOB_LIMIT):
        damage(name, content)
        with pytest.raises(BlobCorrupt):
            store.get([name])


def test_putting_a_damaged_blob_again_heals_it(opened: Open, damage: Damage) -> None:
    store, name = opened(), blob_name(b"content")
    store.put({name: b"content"})
    damage(name, b"other")
    store.put({name: b"content"})
    assert store.get([name]) == [b"content"]


def test_deleted_blobs_are_gone_and_others_stay(opened: Open) -> None:
    store = opened()
    store.put(BLOBS)
    gone, *stay = BLOBS
    store.delete([gone, blob_name(b"never there")])
    store.delete([])
    assert set(store.names()) == set(stay)
    assert store.missing(BLOBS) == {gone}


def test_under_a_head_that_is_not_the_stores_nothing_is_deleted(opened: Open) -> None:
    with opened() as store:
        store.put(BLOBS)
        with pytest.raises(HeadConflict):
            store.delete(BLOBS, head=head(1, 1))
        set_head(store, 1, 1, None)
        store.delete(list(BLOBS)[:1], head=head(1, 1))
        assert store.missing(BLOBS) == set(list(BLOBS)[:1])
        set_head(store, 2, 1, (1, 1))
        with pytest.raises(HeadConflict):
            store.delete(BLOBS, head=head(1, 1))
        assert store.missing(BLOBS) == set(list(BLOBS)[:1])


def test_a_new_store_is_empty(opened: Open) -> None:
    assert opened().head() is None
    assert set(opened().names()) == set()
    assert opened().missing(BLOBS) == set(BLOBS)
    assert not opened().wait(None, 0.0)


def test_the_head_moves_only_from_what_is_expected(opened: Open) -> None:
    store = opened()
    with pytest.raises(HeadConflict):
        set_head(store, 1, 1, (1, 0))
    set_head(store, 1, 1, None)
    for expected in (None, (1, 0), (1, 2), (2, 1)):
        with pytest.raises(HeadConflict):
            set_head(store, 1, 2, expected)
    assert opened().head() == head(1, 1)
    set_head(opened(), 1, 2, (1, 1))
    assert store.head() == head(1, 2)


def test_the_head_never_goes_back(opened: Open) -> None:
    store = opened()
    set_head(store, 2, 9, None)
    for epoch, revision in ((2, 9), (2, 8), (1, 10)):
        with pytest.raises(HeadConflict):
            set_head(store, epoch, revision, (2, 9), mark=b"other")
    assert store.head() == head(2, 9)
    set_head(store, 2, 10, (2, 9))
    set_head(store, 10, 1, (2, 10))
    assert store.head() == head(10, 1)


def test_setting_the_same_head_again_is_harmless_and_another_with_its_number_is_refused(opened: Open) -> None:
    store = opened()
    for expected in (None, None, (1, 1)):
        set_head(store, 1, 1, expected)
    with pytest.raises(HeadConflict):
        set_head(store, 1, 1, (1, 1), mark=b"other")
    assert store.head() == head(1, 1)


def test_a_publisher_with_an_old_epoch_is_fenced(opened: Open) -> None:
    old, new = opened(), opened()
    set_head(old, 1, 7, None)
    set_head(new, 2, 1, (1, 7))
    with pytest.raises(HeadConflict):
        set_head(old, 1, 8, (1, 7))
    assert old.head() == head(2, 1)


def test_of_many_that_move_the_head_at_once_one_wins(opened: Open) -> None:
    set_head(opened(), 1, 1, None)
    won: list[int] = []

    def race(store: WeightStore, number: int) -> None:
        try:
            set_head(store, 1 + number % 3, 2 + number, (1, 1))
            won.append(number)
        except HeadConflict:
            pass

    threads = [threading.Thread(target=race, args=[opened(), number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert opened().head() == head(1 + won[0] % 3, 2 + won[0])


def test_waiting_ends_at_once_when_there_is_another_head_already(opened: Open) -> None:
    set_head(opened(), 1, 2, None)
    assert opened().wait(None, 60.0)
    assert opened().wait((1, 1), 60.0)
    assert opened().wait((1, 3), 60.0)


def test_waiting_ends_without_a_new_head(opened: Open) -> None:
    set_head(opened(), 1, 1, None)
    assert not opened().wait((1, 1), 0.05)


def test_a_new_head_wakes_who_waits(opened: Open) -> None:
    set_head(opened(), 1, 1, None)
    waiting, woken = opened(), threading.Event()
    thread = threading.Thread(target=lambda: waiting.wait((1, 1), 60.0) and woken.set())
    thread.start()
    for revision in range(2, 5):
        set_head(opened(), 1, revision, (1, revision - 1))
    assert woken.wait(30.0)
    thread.join()


def test_a_damaged_head_in_redis_is_none_and_the_next_one_takes_its_place(redis_url: str, prefix: str) -> None:
    key = f"{{{prefix}}}:head"
    with open_store(f"{redis_url}?prefix={prefix}") as store, redis.Redis.from_url(redis_url) as client:
        for revision, damage in enumerate([{"head": b""}, {"head": head(1, 9)}, {"epoch": 7}, {"revision": "x"}, {"digest": b""}], start=1):
            client.delete(key)
            set_head(store, 1, revision, None)
            client.hset(key, mapping=damage)
            assert store.head() is None
            set_head(store, 1, revision, None)
            assert store.head() == head(1, revision)


def test_prefixes_keep_stores_apart(redis_url: str) -> None:
    one, other = (open_store(f"{redis_url}?prefix={uuid.uuid4().hex}") for _ in range(2))
    with one, other:
        one.put(BLOBS)
        set_head(one, 1, 1, None)
        assert other.head() is None
        assert set(other.names()) == set()


def test_a_head_is_seen_without_the_channel(redis_url: str, prefix: str) -> None:
    with open_store(f"{redis_url}?prefix={prefix}") as store, redis.Redis.from_url(redis_url) as client:
        silent = threading.Timer(0.2, client.hset, [f"{{{prefix}}}:head"], {"mapping": {"epoch": 1, "revision": 1, "head": head(1, 1)}})
        silent.start()
        assert store.wait(None, 30.0)
        silent.join()


@pytest.mark.parametrize("url", ["", "weights", "file:", "file:///", "http://host/x"])
def test_a_url_that_is_no_store_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(Misconfigured):
        open_store(url)


def test_the_directory_ignores_torn_and_foreign_files(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    set_head(store, 1, 1, None)
    store.put(BLOBS)
    heads = tmp_path / "heads"
    (heads / f"{9:020d}-{9:020d}").write_bytes(head(9, 9)[:-20])
    (heads / f"{9:020d}-{8:020d}").write_bytes(b"")
    (heads / f"{9:020d}-{7:020d}").write_bytes(head(1, 1))  # not the head that its name says
    (heads / "notes.txt").write_bytes(head(9, 9))
    (tmp_path / "blobs" / "notes.txt").write_text("not a blob")
    (tmp_path / "blobs" / next(iter(BLOBS))[:2] / "notes.txt").write_text("not a blob")
    assert store.head() == head(1, 1)
    assert not store.wait((1, 1), 0.05)
    assert set(store.names()) == set(BLOBS)
    set_head(store, 1, 2, (1, 1))
    assert store.head() == head(1, 2)
    set_head(store, 9, 9, (1, 2))  # in the place of the torn one
    assert store.head() == head(9, 9)


def test_the_directory_keeps_sixteen_heads(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    set_head(store, 1, 1, None)
    for revision in range(2, 21):
        set_head(store, 1, revision, (1, revision - 1))
    kept = sorted(path.name for path in (tmp_path / "heads").glob("0*"))
    assert kept == [f"{1:020d}-{revision:020d}" for revision in range(5, 21)]


def test_the_directory_sweeps_what_dead_processes_left(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put(BLOBS)
    folder = tmp_path / "blobs" / next(iter(BLOBS))[:2]
    old, young = folder / ".old", folder / ".young"
    for path in (old, young):
        path.write_bytes(b"half a bl")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    store.delete([])
    assert not old.exists()
    assert young.exists()
    assert set(store.names()) == set(BLOBS)


def test_deleting_goes_on_where_a_file_that_was_being_written_is_gone_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path.as_uri())
    store.put(BLOBS)
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*listed(folder), ".gone"])
    store.delete(BLOBS)
    assert set(store.names()) == set()


def test_a_directory_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="cannot be written"):
        open_store(tmp_path.as_uri()).put(BLOBS)
