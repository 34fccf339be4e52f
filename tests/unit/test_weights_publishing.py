"""What is published is what pods hold, whenever they look; and nothing else ever is."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from liveloop.errors import (
    BadSignature,
    BlobCorrupt,
    BlobMissing,
    HeadConflict,
    Misconfigured,
    StaleHead,
    Unavailable,
    WeightsRefused,
    WrongLayout,
)
from liveloop.v1.weights_pb2 import Head, Manifest
from liveloop.weights import publisher as publishing
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.head import read_head, sign_head
from liveloop.weights.manifest import head_key, open_manifest, sign
from liveloop.weights.publisher import Publisher, read_model
from liveloop.weights.records import Records
from liveloop.weights.state import FlatState
from liveloop.weights.store import blob_name
from liveloop.weights.subscriber import Subscriber, Update
from tests.weight_samples import FROZEN, KEY, TOTAL, Versions, bundle, chunks_that_differ, finite_bits, step

PATIENCE = 30.0


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "weights")


@pytest.fixture
def versions(store: DirectoryStore) -> Iterator[Versions]:
    versions = Versions(store)
    yield versions
    versions.publisher.close()


def started(store: DirectoryStore, local: DirectoryStore | None = None) -> Subscriber:
    pod = Subscriber(store, KEY.public_key(), local=local)
    pod.start()
    return pod


def updated(pod: Subscriber) -> Update:
    update = pod.next(PATIENCE)
    assert update is not None
    return update


def assert_holds(pod: Subscriber, versions: Versions, version: int) -> None:
    assert pod.version == version
    assert np.array_equal(pod.state.bits, versions.bits[version])
    assert pod.state.digest == FlatState(versions.bits[version].copy()).digest


def path_of(store: Path, name: str) -> Path:
    return store / "blobs" / name[:2] / name


def patch_blob(store: DirectoryStore, manifest: str) -> str:
    return open_manifest(store.get([manifest])[0], KEY.public_key()).patch_blobs[0]


def replace_head(store: DirectoryStore, change: Callable[[Head], None], *, key: Ed25519PrivateKey = KEY) -> None:
    """Put a changed head after the one in the store."""
    head = read_head(store, KEY.public_key())
    before = head_key(head)
    head.revision += 1
    change(head)
    store.set_head(sign_head(head, key), epoch=head.epoch, revision=head.revision, expected=before)


def keyframe_every(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "KEYFRAME_INTERVAL", count)


def test_the_first_version_is_current_blessed_and_whole(store: DirectoryStore) -> None:
    publisher = Publisher.first(store, KEY, bundle(), finite_bits())
    head = publisher.head
    assert (head.current, head.blessed, head.epoch, head.revision) == (1, 1, 1, 1)
    pod = started(store)
    assert np.array_equal(pod.state.bits, finite_bits())
    assert pod.bundle == bundle() == read_model(store, KEY.public_key()).bundle


def test_a_store_with_a_model_takes_no_other_first_version(store: DirectoryStore, versions: Versions) -> None:
    with pytest.raises(Misconfigured):
        Publisher.first(store, KEY, bundle(), versions.bits[1])


def test_a_first_version_must_fit_its_layout_and_be_finite(store: DirectoryStore) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        Publisher.first(store, KEY, bundle(), finite_bits()[1:])
    infinite = finite_bits()
    infinite[-1] = 0x7F80
    with pytest.raises(WeightsRefused):
        Publisher.first(store, KEY, bundle(), infinite)
    assert store.head() is None


def test_an_empty_store_is_no_model(store: DirectoryStore) -> None:
    with pytest.raises(Misconfigured, match="liveloop init"):
        Publisher(store, KEY, epoch=1)
    with pytest.raises(Unavailable):
        Subscriber(store, KEY.public_key()).start()


def test_an_update_says_what_changed(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    bits = pod.state.bits
    versions.publish()
    update = updated(pod)
    assert_holds(pod, versions, 2)
    assert pod.state.bits is bits
    assert (update.version, update.created_at, update.included) == (2, 1e9 + 2, [2.0])
    assert (update.blessed, update.epoch, update.revision) == (1, 1, 2)
    assert pod.created_at == started(store).created_at == update.created_at
    assert update.chunks == chunks_that_differ(versions.bits[1], versions.bits[2])


def test_a_pod_that_waits_is_woken(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    found: list[Update] = []
    waiting = threading.Thread(target=lambda: found.append(updated(pod)))
    waiting.start()
    versions.publish()
    waiting.join()
    assert [update.version for update in found] == [2]


def test_nothing_new_is_no_update(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    assert pod.next(0.05) is None
    versions.publisher.bless(1)
    assert pod.next(0.0) is None


def test_a_pod_learns_of_a_blessing_without_an_update(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish()
    updated(pod)
    versions.publisher.bless(2)
    assert pod.next(0.1) is None
    assert pod.head.blessed == 2


def test_skipped_versions_are_one_update_that_covers_them(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    for _ in range(5):
        versions.publish()
    update = updated(pod)
    assert_holds(pod, versions, 6)
    assert update.included == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert update.chunks == chunks_that_differ(versions.bits[1], versions.bits[6])
    assert pod.next(0.0) is None


def test_version_numbers_may_be_skipped(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish(7)
    versions.publish(20)
    assert updated(pod).version == 20
    assert_holds(pod, versions, 20)


def test_old_weights_can_be_published_as_a_new_version(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    for _ in range(3):
        versions.publish()
    assert updated(pod).version == 4
    versions.publish(bits=versions.publisher.load(2, versions.manifests[2]))
    assert updated(pod).version == 5
    assert np.array_equal(pod.state.bits, versions.bits[2])


def test_a_version_that_changes_nothing_is_a_version(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish(bits=versions.bits[1])
    update = updated(pod)
    assert (update.version, update.included) == (2, [2.0])
    assert update.chunks == []


def test_a_version_that_changes_everything_is_exact(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish(changes=TOTAL - FROZEN)
    updated(pod)
    assert_holds(pod, versions, 2)


def test_publishing_again_is_harmless(store: DirectoryStore, versions: Versions) -> None:
    bits = step(versions.bits[1], 2)
    staged = versions.publisher.stage(bits)
    first = versions.publisher.publish(staged, version=2, step=2, included=[1.0], created_at=5.0)
    head = store.head()
    assert versions.publisher.publish(staged, version=2, step=2, included=[1.0], created_at=5.0) == first
    with Publisher(store, KEY, epoch=1) as again:
        assert again.publish(again.stage(bits), version=2, step=2, included=[1.0], created_at=5.0) == first
    assert store.head() == head


def test_a_publish_whose_answer_was_lost_can_be_repeated(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    set_head = DirectoryStore.set_head

    def lose_the_answer(self: DirectoryStore, *arguments: bytes, **named: int) -> None:
        set_head(self, *arguments, **named)  # type: ignore[arg-type]
        monkeypatch.undo()
        raise Unavailable("the answer was lost")

    monkeypatch.setattr(DirectoryStore, "set_head", lose_the_answer)
    with pytest.raises(Unavailable):
        versions.publish()
    assert versions.current == 1
    assert versions.publish() == 2


def test_a_version_never_goes_back_or_changes(versions: Versions) -> None:
    versions.publish(5)
    other = versions.publisher.stage(step(versions.bits[5], 9))
    for version in (4, 5):
        with pytest.raises(ValueError, match="does not come after"):
            versions.publisher.publish(other, version=version, step=1, included=[], created_at=0.0)


def test_what_was_staged_before_another_version_is_not_published(versions: Versions) -> None:
    staged = versions.publisher.stage(step(versions.bits[1], 9))
    versions.publish()
    with pytest.raises(ValueError, match="another version"):
        versions.publisher.publish(staged, version=3, step=3, included=[], created_at=0.0)


def test_a_publisher_goes_on_where_another_stopped(store: DirectoryStore, versions: Versions) -> None:
    versions.publish()
    with Publisher(store, KEY, epoch=4) as successor:
        assert np.array_equal(successor.state.bits, versions.bits[2])
        assert head_key(successor.head) == (4, 1)
        with pytest.raises(HeadConflict):
            versions.publish()
        with pytest.raises(HeadConflict):
            Publisher(store, KEY, epoch=3)
        staged = successor.stage(step(versions.bits[2], 3))
        assert successor.publish(staged, version=3, step=3, included=[], created_at=0.0).parent == 2
        assert head_key(successor.head) == (4, 2)


def test_another_key_cannot_open_a_store(store: DirectoryStore, versions: Versions) -> None:
    with pytest.raises(BadSignature):
        Publisher(store, Ed25519PrivateKey.generate(), epoch=versions.publisher.head.epoch)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["publish", "skip", "back", "look", "look", "late", "collect", "bless", "reopen"]), max_size=30))
def test_every_pod_holds_the_published_bits_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, happens: list[str]
) -> None:
    keyframe_every(3, monkeypatch)
    store = DirectoryStore(tmp_path_factory.mktemp("store"))
    versions = Versions(store)
    steady, now_and_then = started(store), started(store)
    told: list[float] = []
    for event in happens:
        current = versions.current
        if event == "publish":
            versions.publish()
        elif event == "skip":
            versions.publish(current + 3)
        elif event == "back":
            versions.publish(bits=versions.bits[min(versions.bits)])
        elif event == "look":
            update = now_and_then.next(0.0)
            told += update.included if update else []
            assert_holds(now_and_then, versions, current)
        elif event == "late":
            assert_holds(started(store), versions, current)
        elif event == "collect":
            versions.publisher.collect([])
        elif event == "bless":
            versions.publisher.bless(current)
        else:
            versions.publisher.close()
            versions.publisher = Publisher(store, KEY, epoch=versions.publisher.head.epoch + 1)
        steady.next(0.0)
        assert_holds(steady, versions, versions.current)
    update = now_and_then.next(0.0)
    told += update.included if update else []
    assert len(told) == len(set(told))
    assert set(told) <= {float(version) for version in versions.bits}
    if "collect" not in happens:
        assert told == [float(version) for version in sorted(versions.bits)[1:]]
    versions.publisher.close()


def test_a_keyframe_shortens_the_chain(store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    keyframe_every(4, monkeypatch)
    pod = started(store)
    for _ in range(12):
        versions.publish()
        updated(pod)
        versions.publisher.close()  # the keyframe is written
    head = versions.publisher.head
    assert [link.version for link in head.chain] == [9, 10, 11, 12, 13]
    assert [link.version for link in head.kept] == [1]
    assert_holds(pod, versions, 13)
    assert_holds(started(store), versions, 13)


def test_versions_made_while_a_keyframe_is_written_lead_to_it(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    go_on, put = threading.Event(), DirectoryStore.put

    def slow_put(self: DirectoryStore, blobs: dict[str, bytes]) -> None:
        if threading.current_thread().name == "keyframe":
            assert go_on.wait(PATIENCE)
        put(self, blobs)

    monkeypatch.setattr(DirectoryStore, "put", slow_put)
    for _ in range(6):
        versions.publish()
    assert [link.version for link in versions.publisher.head.chain] == list(range(1, 8))
    go_on.set()
    versions.publisher.close()
    versions.publish()
    assert [link.version for link in versions.publisher.head.chain] == [4, 5, 6, 7, 8]
    versions.publisher.collect([5])
    assert_holds(started(store), versions, 8)
    assert np.array_equal(versions.publisher.load(5, versions.manifests[5]), versions.bits[5])


def test_a_keyframe_that_cannot_be_written_is_tried_again(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    put, failures = DirectoryStore.put, [Unavailable("no space left on the device"), MemoryError()]

    def failing_put(self: DirectoryStore, blobs: dict[str, bytes]) -> None:
        if threading.current_thread().name == "keyframe" and failures:
            raise failures.pop()
        put(self, blobs)

    monkeypatch.setattr(DirectoryStore, "put", failing_put)
    for _ in range(8):
        versions.publish()
        versions.publisher.close()
    assert not failures
    assert versions.publisher.head.chain[0].version > 1
    assert_holds(started(store), versions, 9)


def test_a_pod_far_behind_fetches_only_the_chunks_that_differ(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    pod = started(store)
    for _ in range(9):
        versions.publish(changes=5)  # in the last chunks alone
        versions.publisher.close()
    versions.publisher.collect([])
    got: list[str] = []
    get = DirectoryStore.get
    monkeypatch.setattr(DirectoryStore, "get", lambda self, names: got.extend(names) or get(self, names))
    update = updated(pod)
    assert update.chunks is None
    assert_holds(pod, versions, 10)
    frozen = FlatState(versions.bits[1].copy()).chunk_digests[:32].hex()
    assert frozen not in got
    changed = FlatState(versions.bits[versions.publisher.head.chain[0].version].copy()).chunk_digests[32:64].hex()
    assert changed in got


def test_a_pod_just_behind_a_new_keyframe_follows_the_patches(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    pod = started(store)
    for _ in range(9):
        versions.publish()
        versions.publisher.close()
    assert versions.publisher.head.chain[0].version > 2
    update = updated(pod)
    assert update.chunks is not None
    assert update.included == [float(version) for version in range(2, 11)]
    assert_holds(pod, versions, 10)


def test_a_pod_whose_patches_were_collected_after_it_read_of_them_takes_the_keyframe(
    tmp_path: Path, store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    pod = started(store)
    versions.publish()
    path_of(tmp_path / "weights", patch_blob(store, versions.manifests[2])).write_bytes(b"damaged")
    versions.publish()
    with pytest.raises(BlobCorrupt):
        pod.next(PATIENCE)
    for _ in range(4):
        versions.publish()
        versions.publisher.close()
    versions.publisher.collect([])
    assert versions.publisher.head.chain[0].version > 3
    assert updated(pod).chunks is None
    assert_holds(pod, versions, 7)


def test_blessing_and_loading_reach_back_before_the_keyframe(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    for _ in range(9):
        versions.publish()
        versions.publisher.close()
    versions.publisher.bless(3)
    with Publisher(store, KEY, epoch=2) as reopened:
        for version, bits in versions.bits.items():
            assert np.array_equal(reopened.load(version, versions.manifests[version]), bits)
        reopened.collect([5])
        for version in (1, 3, 5, 10):
            assert np.array_equal(reopened.load(version, versions.manifests[version]), versions.bits[version])
        reopened.bless(5)
        with pytest.raises(BlobMissing):
            reopened.bless(6)
        with pytest.raises(BlobMissing):
            reopened.load(6, versions.manifests[6])


def test_collecting_keeps_what_is_named_and_nothing_else(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    for _ in range(11):
        versions.publish()
        versions.publisher.close()
    versions.publisher.bless(9)
    before = set(store.names())
    versions.publisher.collect([6, 999])
    head = read_head(store, KEY.public_key())
    assert [link.version for link in head.kept] == [1, 6, 9]
    assert set(store.names()) == Records(store, KEY.public_key()).needs(head) < before
    assert_holds(started(store), versions, 12)
    versions.publisher.collect([])
    assert [link.version for link in versions.publisher.head.kept] == [1, 9]
    assert np.array_equal(versions.publisher.load(9, ""), versions.bits[9])
    versions.publish()
    assert_holds(started(store), versions, 13)


def test_collecting_spares_a_keyframe_that_is_being_written(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    reached, go_on, put = threading.Event(), threading.Event(), DirectoryStore.put

    def slow_put(self: DirectoryStore, blobs: dict[str, bytes]) -> None:
        put(self, blobs)
        if threading.current_thread().name == "keyframe":
            reached.set()
            assert go_on.wait(PATIENCE)

    monkeypatch.setattr(DirectoryStore, "put", slow_put)
    for _ in range(3):
        versions.publish()
    assert reached.wait(PATIENCE)
    versions.publisher.collect([])
    go_on.set()
    versions.publisher.close()
    versions.publisher.collect([])
    versions.publish()
    assert versions.publisher.head.chain[0].version == 4
    assert_holds(started(store), versions, 5)


def test_a_pod_whose_version_was_collected_while_it_fetched_takes_the_next(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    pod = started(store)
    for _ in range(3):
        versions.publish()
    versions.publisher.close()
    get, once = DirectoryStore.get, [1]

    def collected_meanwhile(self: DirectoryStore, names: list[str]) -> list[bytes]:
        if once:
            once.pop()
            for _ in range(4):
                versions.publish()
                versions.publisher.close()
            versions.publisher.collect([])
        return get(self, names)

    monkeypatch.setattr(DirectoryStore, "get", collected_meanwhile)
    assert updated(pod).version == 8
    assert_holds(pod, versions, 8)


def test_a_damaged_patch_is_refused_and_taken_once_it_is_whole(tmp_path: Path, store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish()
    path = path_of(tmp_path / "weights", patch_blob(store, versions.manifests[2]))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BlobCorrupt):
        pod.next(PATIENCE)
    assert_holds(pod, versions, 1)
    path.write_bytes(whole)
    update = updated(pod)
    assert (update.version, update.chunks) == (2, chunks_that_differ(versions.bits[1], versions.bits[2]))  # the keyframe was not fetched
    assert_holds(pod, versions, 2)


def test_a_missing_patch_is_refused_and_a_newer_whole_version_is_not_reached_without_it(
    tmp_path: Path, store: DirectoryStore, versions: Versions
) -> None:
    pod = started(store)
    versions.publish()
    path = path_of(tmp_path / "weights", patch_blob(store, versions.manifests[2]))
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(BlobMissing):
        pod.next(PATIENCE)
    versions.publish()
    with pytest.raises(BlobMissing):
        pod.next(PATIENCE)
    assert_holds(pod, versions, 1)
    path.write_bytes(whole)
    assert updated(pod).version == 3
    assert_holds(pod, versions, 3)


def test_a_signed_patch_that_does_not_give_its_digest_is_refused(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish()
    updated(pod)
    manifest = open_manifest(store.get([versions.manifests[2]])[0], KEY.public_key())
    lie = Manifest()
    lie.CopyFrom(manifest)
    lie.version, lie.parent, lie.parent_manifest = 3, 2, versions.manifests[2]
    lie.state_digest = bytes(32)
    blob = sign("manifest", lie.SerializeToString(), KEY)
    store.put({blob_name(blob): blob})

    def name_the_lie(head: Head) -> None:
        head.current = 3
        head.chain.add(version=3, manifest=blob_name(blob))

    replace_head(store, name_the_lie)
    for _ in range(2):
        with pytest.raises(BlobCorrupt):
            pod.next(PATIENCE)
        assert_holds(pod, versions, 2)


def test_a_pod_whose_memory_was_damaged_heals_itself(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    pod.state.bits[FROZEN + 7] ^= 1
    versions.publish()
    with pytest.raises(BlobCorrupt):
        pod.next(PATIENCE)
    assert updated(pod).chunks is None
    assert_holds(pod, versions, 2)


def test_damaged_memory_is_healed_on_the_way_over_a_keyframe_too(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    pod = started(store)
    for _ in range(8):
        versions.publish()
        versions.publisher.close()
    versions.publisher.collect([])
    pod.state.bits[3] ^= 1
    assert updated(pod).chunks is None
    assert_holds(pod, versions, 9)


def test_a_head_with_a_bad_signature_is_refused(tmp_path: Path, store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish()
    replace_head(store, lambda _: None, key=Ed25519PrivateKey.generate())
    with pytest.raises(BadSignature):
        pod.next(PATIENCE)
    assert_holds(pod, versions, 1)
    (tmp_path / "weights" / "heads" / f"{1:020d}-{3:020d}").unlink()
    assert updated(pod).version == 2


def test_a_manifest_with_a_bad_signature_is_refused(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    manifest = open_manifest(store.get([versions.manifests[1]])[0], KEY.public_key())
    manifest.version, manifest.parent, manifest.parent_manifest = 2, 1, versions.manifests[1]
    blob = sign("manifest", manifest.SerializeToString(), Ed25519PrivateKey.generate())
    store.put({blob_name(blob): blob})

    def name_it(head: Head) -> None:
        head.current = 2
        head.chain.add(version=2, manifest=blob_name(blob))

    replace_head(store, name_it)
    with pytest.raises(BadSignature):
        pod.next(PATIENCE)
    assert_holds(pod, versions, 1)


def test_a_version_for_another_layout_is_refused(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish()
    manifest = open_manifest(store.get([versions.manifests[2]])[0], KEY.public_key())
    manifest.layout_digest = bytes(32)
    blob = sign("manifest", manifest.SerializeToString(), KEY)
    store.put({blob_name(blob): blob})

    def name_it(head: Head) -> None:
        head.chain[-1].manifest = blob_name(blob)

    replace_head(store, name_it)
    with pytest.raises(WrongLayout):
        pod.next(PATIENCE)
    assert_holds(pod, versions, 1)


def test_a_head_of_another_model_is_refused(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)

    def change_model(head: Head) -> None:
        head.model_digest = bytes(32)

    replace_head(store, change_model)
    with pytest.raises(WrongLayout):
        pod.next(PATIENCE)
    assert_holds(pod, versions, 1)


def test_a_head_older_than_one_taken_is_refused(tmp_path: Path, store: DirectoryStore, versions: Versions) -> None:
    folder, newer = tmp_path / "weights", tmp_path / "newer"
    shutil.copytree(folder, tmp_path / "backup")
    versions.publish()
    pod = started(store)
    folder.rename(newer)
    (tmp_path / "backup").rename(folder)
    for _ in range(2):
        with pytest.raises(StaleHead):
            pod.next(PATIENCE)
        assert_holds(pod, versions, 2)
    folder.rename(tmp_path / "backup")
    newer.rename(folder)
    versions.publish()
    assert updated(pod).version == 3
    assert_holds(pod, versions, 3)


def test_a_head_older_than_one_that_could_not_be_fetched_is_refused(tmp_path: Path, store: DirectoryStore, versions: Versions) -> None:
    folder = tmp_path / "weights"
    pod = started(store)
    versions.publish()
    shutil.copytree(folder, tmp_path / "backup")
    versions.publish()
    path_of(folder, patch_blob(store, versions.manifests[3])).write_bytes(b"damaged")
    with pytest.raises(BlobCorrupt):
        pod.next(PATIENCE)
    folder.rename(tmp_path / "lost")
    (tmp_path / "backup").rename(folder)
    with pytest.raises(StaleHead):
        pod.next(PATIENCE)
    assert_holds(pod, versions, 1)


def test_a_learner_put_back_to_a_backup_is_followed_under_a_new_epoch(tmp_path: Path, store: DirectoryStore, versions: Versions) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(folder, tmp_path / "backup")
    versions.publish()
    pod = started(store)
    folder.rename(tmp_path / "lost")
    (tmp_path / "backup").rename(folder)
    with Publisher(store, KEY, epoch=2) as restored:
        other = versions.bits[1]
        for version in (2, 3):
            other = step(other, 100 + version)
            restored.publish(restored.stage(other), version=version, step=version, included=[], created_at=0.0)
    update = updated(pod)
    assert (update.version, update.epoch, update.chunks) == (3, 2, None)
    assert np.array_equal(pod.state.bits, other)


def test_a_refused_head_is_not_looked_at_again_at_once(tmp_path: Path, store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish()
    path_of(tmp_path / "weights", patch_blob(store, versions.manifests[2])).write_bytes(b"damaged")
    with pytest.raises(BlobCorrupt):
        pod.next(PATIENCE)
    assert pod.next(0.0) is None
    with pytest.raises(BlobCorrupt):
        pod.next(PATIENCE)


def test_a_pod_starts_from_its_last_good_copy(tmp_path: Path, store: DirectoryStore, versions: Versions) -> None:
    local = DirectoryStore(tmp_path / "local")
    pod = started(store, local)
    pod.keep_local()
    versions.publish()
    updated(pod)
    pod.keep_local()
    (tmp_path / "weights").rename(tmp_path / "away")
    with capture_logs() as lines:
        restarted = started(store, local)
    (line,) = lines
    assert (line["event"], line["version"], line["log_level"]) == ("serving the last good copy", 2, "warning")
    assert abs(time.time() - (1e9 + 2) - line["age_seconds"]) < 3600
    assert_holds(restarted, versions, 2)
    assert restarted.next(0.0) is None
    (tmp_path / "away").rename(tmp_path / "weights")
    versions.publish()
    assert updated(restarted).version == 3


def test_a_pod_starts_from_its_last_good_copy_when_the_store_is_damaged(tmp_path: Path, store: DirectoryStore, versions: Versions) -> None:
    local = DirectoryStore(tmp_path / "local")
    started(store, local).keep_local()
    versions.publish()
    path_of(tmp_path / "weights", patch_blob(store, versions.manifests[2])).write_bytes(b"damaged")
    pod = started(store, local)
    assert_holds(pod, versions, 1)
    with pytest.raises(BlobCorrupt):
        started(store)


def test_the_last_good_copy_holds_one_version_alone(
    tmp_path: Path, store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe_every(3, monkeypatch)
    local = DirectoryStore(tmp_path / "local")
    pod = started(store, local)
    for _ in range(9):
        versions.publish()
        versions.publisher.close()
        updated(pod)
        pod.keep_local()
    needed = Records(store, KEY.public_key()).needs(versions.publisher.head, kept=False)
    assert set(local.names()) == needed
    assert_holds(started(local), versions, 10)


def test_the_last_good_copy_moves_to_another_model_whatever_its_epoch_and_never_back_within_one(
    store: DirectoryStore, versions: Versions, tmp_path: Path
) -> None:
    versions.publish()
    Publisher(store, KEY, epoch=3).close()
    local = DirectoryStore(tmp_path / "local")
    former = started(store, local)
    former.keep_local()
    other = DirectoryStore(tmp_path / "other")
    others = Versions(other, model="another")
    others.publish()
    pod = started(other, local)
    pod.keep_local()
    assert_holds(started(local), others, 2)
    assert set(local.names()) == Records(other, KEY.public_key()).needs(others.publisher.head, kept=False)
    Publisher(other, KEY, epoch=2).close()
    started(other, local).keep_local()
    with pytest.raises(HeadConflict):
        pod.keep_local()
    assert read_head(local, KEY.public_key()).epoch == 2


def test_a_pod_that_starts_on_a_store_that_went_back_serves_its_newer_copy(
    store: DirectoryStore, versions: Versions, tmp_path: Path
) -> None:
    versions.publish()
    shutil.copytree(tmp_path / "weights", tmp_path / "backup")
    versions.publish()
    newest = versions.publisher.head.current
    local = DirectoryStore(tmp_path / "local")
    started(store, local).keep_local()
    assert started(DirectoryStore(tmp_path / "backup"), local).version == newest


def test_a_publisher_that_was_overtaken_deletes_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    overtaken = Versions(store)
    successor = Publisher(store, KEY, epoch=2)
    bits = step(overtaken.bits[1], 2)
    successor.publish(successor.stage(bits), version=2, step=2, included=[], created_at=1e9)
    before = set(store.names())
    with pytest.raises(HeadConflict):
        overtaken.publisher.collect([])
    with pytest.raises(HeadConflict):
        overtaken.publish(2, bits=bits)
    assert before <= set(store.names())
    assert read_head(store, KEY.public_key()).epoch == 2
    assert np.array_equal(successor.load(2, ""), bits)


def test_a_publisher_that_is_overtaken_while_it_collects_deletes_nothing_that_its_successor_put_again(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken = Versions(store)
    for _ in range(3):
        overtaken.publish()
    keyframe_every(1, monkeypatch)
    overtaken.publish()
    overtaken.publisher.close()
    overtaken.publish()  # its chain begins with the keyframe: the versions before are to be collected
    delete, successors = store.delete, []

    def overtaken_first(names: Iterable[str], *, head: bytes | None = None) -> None:
        if not successors:
            successors.append(Publisher(DirectoryStore(store._folder), KEY, epoch=2))
            successors[0].collect(range(10))
        delete(names, head=head)

    monkeypatch.setattr(store, "delete", overtaken_first)
    with pytest.raises(HeadConflict):
        overtaken.publisher.collect([])
    for version, bits in overtaken.bits.items():
        assert np.array_equal(successors[0].load(version, overtaken.manifests[version]), bits)


def test_a_head_signed_under_an_older_epoch_is_refused_whatever_its_revision_and_version(tmp_path: Path, store: DirectoryStore) -> None:
    versions = Versions(store)
    stale = read_head(store, KEY.public_key())
    Publisher(store, KEY, epoch=2).close()
    pod = started(store)
    versions.publisher = Publisher(DirectoryStore(copied(tmp_path, "weights", "stale", stale)), KEY, epoch=1)
    for _ in range(3):
        versions.publish()
    (tmp_path / "weights").rename(tmp_path / "newer")
    (tmp_path / "stale").rename(tmp_path / "weights")
    assert head_key(read_head(store, KEY.public_key())) == (1, 4)
    with pytest.raises(StaleHead):
        pod.next(PATIENCE)
    assert_holds(pod, versions, 1)


def copied(folder: Path, source: str, target: str, head: Head) -> Path:
    """A store with the same blobs and this head alone."""
    shutil.copytree(folder / source / "blobs", folder / target / "blobs")
    DirectoryStore(folder / target).set_head(sign_head(head, KEY), epoch=head.epoch, revision=head.revision, expected=None)
    return folder / target
