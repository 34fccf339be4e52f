"""The channels: who is in which, and that a pod holds each one's version bit for bit, whatever the head does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from liveloop.errors import BlobCorrupt, BlobMissing
from liveloop.weights import publisher as publishing
from liveloop.weights.channels import Channel, channel_of, link_of
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.head import read_head
from liveloop.weights.manifest import open_manifest
from liveloop.weights.mirror import Copier
from liveloop.weights.publisher import Publisher
from liveloop.weights.records import Records
from liveloop.weights.state import FlatState
from liveloop.weights.subscriber import Subscriber, Update
from tests.weight_samples import KEY, Versions, chunks_that_differ

PATIENCE = 30.0
CURRENT, BLESSED = Channel.CURRENT, Channel.BLESSED


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "weights")


@pytest.fixture
def versions(store: DirectoryStore) -> Iterator[Versions]:
    versions = Versions(store)
    share(versions, store, 0.3)
    yield versions
    versions.publisher.close()


def share(versions: Versions, store: DirectoryStore, of_askers: float) -> None:
    """Go on with a publisher that writes this canary share, as a learner does whose setting changed."""
    versions.publisher.close()
    versions.publisher = Publisher(store, KEY, epoch=versions.publisher.head.epoch, canary_share=of_askers)


def started(store: DirectoryStore, local: DirectoryStore | None = None, *, holdout: bool = False) -> Subscriber:
    pod = Subscriber(store, KEY.public_key(), local=local, holdout=holdout)
    pod.start()
    return pod


def updates(pod: Subscriber) -> list[Update]:
    """Everything that there is to tell now."""
    found = []
    while update := pod.next(0.0):
        found.append(update)
    return found


def assert_serves(pod: Subscriber, versions: Versions, **expected: int) -> None:
    assert {channel.name.lower(): held.version for channel, held in pod.served.items()} == expected
    for held in pod.served.values():
        bits = versions.bits[held.version]
        assert np.array_equal(held.state.bits, bits)
        assert held.state.digest == FlatState(bits.copy()).digest


def without_blob(store: DirectoryStore, name: str) -> bytes:
    (blob,) = store.get([name])
    store.delete([name])
    return blob


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_greater_share_only_adds_askers(askers: list[bytes], one: float, other: float):
    less, more = sorted((one, other))
    for asker in askers:
        assert channel_of(asker, 1.0) is CURRENT
        assert channel_of(asker, 0.0) is BLESSED
        assert channel_of(asker, less) is not CURRENT or channel_of(asker, more) is CURRENT


def test_the_share_is_the_share_of_askers():
    askers = np.random.default_rng(0).bytes(16 * 20_000)
    current = sum(channel_of(askers[at : at + 16], 0.1) is CURRENT for at in range(0, len(askers), 16))
    assert current / 20_000 == pytest.approx(0.1, abs=0.01)


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_who_is_held_out_is_so_at_every_greater_share_and_whatever_the_canary_is(askers: list[bytes], one: float, other: float):
    less, more = sorted((one, other))
    for asker in askers:
        held_out = channel_of(asker, 0.5, less) is Channel.HOLDOUT
        assert held_out == (channel_of(asker, one, less) is Channel.HOLDOUT)
        assert not held_out or channel_of(asker, 0.5, more) is Channel.HOLDOUT
        assert held_out or channel_of(asker, one, less) is channel_of(asker, one)


def test_the_holdout_takes_the_same_share_of_both_channels():
    askers = np.random.default_rng(0).bytes(16 * 20_000)
    each = [askers[at : at + 16] for at in range(0, len(askers), 16)]
    for channel in (CURRENT, BLESSED):
        members = [asker for asker in each if channel_of(asker, 0.5) is channel]
        held_out = sum(channel_of(asker, 0.5, 0.05) is Channel.HOLDOUT for asker in members)
        assert held_out / len(members) == pytest.approx(0.05, abs=0.01)


def test_without_a_canary_there_is_one_channel(store: DirectoryStore, versions: Versions) -> None:
    share(versions, store, 1.0)
    pod = started(store)
    versions.publish()
    assert [update.channel for update in updates(pod)] == [CURRENT]
    assert_serves(pod, versions, current=2)


def test_new_versions_reach_the_current_channel_alone(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    for _ in range(3):
        versions.publish()
        (update,) = updates(pod)
        assert (update.channel, update.version, update.included) == (CURRENT, versions.current, [float(versions.current)])
        assert_serves(pod, versions, current=versions.current, blessed=1)


def test_a_blessing_moves_the_blessed_channel_along_the_patches(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    for _ in range(4):
        versions.publish()
    updates(pod)
    versions.publisher.bless(3)
    (update,) = updates(pod)
    assert (update.channel, update.version, update.blessed, update.included) == (BLESSED, 3, 3, [])
    assert update.chunks == chunks_that_differ(versions.bits[1], versions.bits[3])
    assert_serves(pod, versions, current=5, blessed=3)


def test_a_canary_that_is_switched_on_while_pods_run_brings_the_blessed_version_back(store: DirectoryStore, versions: Versions) -> None:
    share(versions, store, 1.0)
    pod = started(store)
    for _ in range(3):
        versions.publish()
    versions.publisher.bless(2)
    updates(pod)
    share(versions, store, 0.5)
    (update,) = updates(pod)
    assert (update.channel, update.version, update.chunks) == (BLESSED, 2, None)
    assert_serves(pod, versions, current=4, blessed=2)
    share(versions, store, 1.0)
    assert updates(pod) == []
    assert_serves(pod, versions, current=4)


def test_a_pod_that_is_behind_when_the_canary_is_switched_on_catches_up_in_both(store: DirectoryStore, versions: Versions) -> None:
    share(versions, store, 1.0)
    pod = started(store)
    for _ in range(4):
        versions.publish()
    versions.publisher.bless(3)
    share(versions, store, 0.5)
    assert {(update.channel, update.version) for update in updates(pod)} == {(CURRENT, 5), (BLESSED, 3)}
    assert_serves(pod, versions, current=5, blessed=3)


def test_the_blessed_version_is_found_from_its_own_keyframe(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "KEYFRAME_INTERVAL", 3)
    pod, holding_out = started(store), started(store, holdout=True)
    for version in range(2, 14):
        versions.publish()
        versions.publisher.close()
        if version == 6:
            versions.publisher.bless(5)
        versions.publisher.collect([])
        updates(pod)
        assert_serves(pod, versions, current=version, blessed=5 if version >= 6 else 1)
        updates(holding_out)
        assert_serves(holding_out, versions, current=version, blessed=5 if version >= 6 else 1, holdout=1)
    assert 5 not in [link.version for link in versions.publisher.head.chain]
    assert_serves(started(store), versions, current=13, blessed=5)
    assert_serves(started(store, holdout=True), versions, current=13, blessed=5, holdout=1)


def test_a_blessed_version_that_cannot_be_fetched_keeps_nobody_from_the_current_one(store: DirectoryStore, versions: Versions) -> None:
    pod = started(store)
    versions.publish()
    versions.publish()
    updates(pod)
    patch = Records(store, KEY.public_key()).manifest(versions.manifests[2]).patch_blobs[0]
    blob = without_blob(store, patch)
    versions.publisher.bless(2)
    versions.publish()
    with pytest.raises(BlobMissing):
        pod.next(PATIENCE)
    (update,) = [pod.next(0.0)]
    assert update is not None
    assert (update.channel, update.version) == (CURRENT, 4)
    assert_serves(pod, versions, current=4, blessed=1)
    store.put({patch: blob})
    update = pod.next(PATIENCE)
    assert update is not None
    assert (update.channel, update.version) == (BLESSED, 2)
    assert_serves(pod, versions, current=4, blessed=2)


def test_what_is_told_of_one_channel_is_what_it_holds_while_the_other_is_fetched_again(
    store: DirectoryStore, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = started(store)
    versions.publish()
    versions.publisher.bless(2)
    patch = open_manifest(store.get([versions.manifests[2]])[0], KEY.public_key()).patch_blobs[0]
    get, fetched = DirectoryStore.get, []

    def lost_once(self: DirectoryStore, names: list[str]) -> list[bytes]:
        fetched.extend(name for name in names if name == patch)
        if len(fetched) == 2:  # for the blessed channel: the current one is there already
            fetched.append(patch)
            versions.publish()
            raise BlobMissing("it was collected")
        return get(self, names)

    monkeypatch.setattr(DirectoryStore, "get", lost_once)
    while pod.head.current < 3:
        update = pod.next(PATIENCE)
        assert update is not None
        assert np.array_equal(pod.served[update.channel].state.bits, versions.bits[update.version])
    assert len(fetched) > 2


def test_a_head_that_does_not_lead_to_its_blessed_version_is_refused(store: DirectoryStore, versions: Versions) -> None:
    versions.publish()
    head = read_head(store, KEY.public_key())
    head.blessed = 7
    with pytest.raises(BlobCorrupt):
        link_of(head, BLESSED)


@pytest.mark.parametrize("expected", [{}, {"holdout": 1}], ids=["no holdout", "holdout"])
def test_the_last_good_copy_holds_every_channel(
    store: DirectoryStore, versions: Versions, tmp_path: Path, expected: dict[str, int]
) -> None:
    local, holdout = DirectoryStore(tmp_path / "local"), bool(expected)
    pod = started(store, local, holdout=holdout)
    versions.publish()
    versions.publish()
    versions.publisher.bless(2)
    updates(pod)
    pod.keep_local()
    assert_serves(started(DirectoryStore(tmp_path / "empty"), local, holdout=holdout), versions, current=3, blessed=2, **expected)


moves = st.lists(st.sampled_from(["publish", "publish", "bless", "on", "off", "follow", "collect", "back"]), max_size=25)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves, st.booleans())
def test_whatever_the_learner_does_every_channel_equals_the_version_that_the_head_names(
    tmp_path_factory: pytest.TempPathFactory, moves: list[str], holdout: bool
) -> None:
    store = DirectoryStore(tmp_path_factory.mktemp("weights"))
    versions = Versions(store)
    mirrored = DirectoryStore(tmp_path_factory.mktemp("mirrored"))
    copier = Copier(store, mirrored, kept=False, holdout=holdout)  # what pods serve is enough for them
    copier.copy(store.head() or b"")
    pod = started(mirrored, holdout=holdout)
    for move in [*moves, "follow"]:
        if move == "publish":
            versions.publish()
        elif move == "back":
            versions.publish(bits=versions.bits[versions.publisher.head.blessed])
        elif move == "bless":
            versions.publisher.bless(versions.current)
        elif move == "collect":
            versions.publisher.collect([])
        elif move == "follow":
            copier.copy(store.head() or b"")
            updates(pod)
            head = versions.publisher.head
            blessed = {"blessed": head.blessed} if head.canary_share < 1 else {}
            assert_serves(pod, versions, current=head.current, **blessed, **({"holdout": 1} if holdout else {}))
        else:
            share(versions, store, 0.5 if move == "on" else 1.0)
    versions.publisher.close()
