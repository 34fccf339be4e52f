"""The replica: what is served is always one whole version, and equals the state."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from liveloop.tasks.classification import Classification
from liveloop.v1.weights_pb2 import Layout
from liveloop.weights.channels import Channel
from services.inference.replica import Replica
from tests.tiny import tiny_bundle

TOTAL, SMALL_CHUNK = 40, 8


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Chunks of a few values, so that a small state has several."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("services.inference.replica.CHUNK", SMALL_CHUNK)
        patched.setattr("liveloop.weights.state.CHUNK", SMALL_CHUNK)
        yield


class FlatTask:
    """A task whose model is its flat buffer."""

    def new_model(self, layout: Layout, flat: torch.Tensor) -> torch.nn.Module:
        assert flat.shape == (layout.total,)
        return torch.nn.ParameterList([torch.nn.Parameter(flat, requires_grad=False)])


def replica_of(bits: np.ndarray) -> Replica:
    return Replica(FlatTask(), Layout(total=len(bits)), bits, 1)  # type: ignore[arg-type]


def served(replica: Replica) -> np.ndarray:
    with replica.acquire() as held:
        return next(held.model.parameters()).numpy().copy()


def widened(bits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(bits.copy()).view(torch.bfloat16).float().numpy()


def change(bits: np.ndarray, positions: Sequence[int], value: int) -> list[int]:
    """Change values, and say in which chunks."""
    changed = np.unique(np.array(positions, np.int64))
    bits[changed] = (changed + value) % 65536
    return np.unique(changed // SMALL_CHUNK).tolist()


updates = st.lists(st.tuples(st.lists(st.integers(0, TOTAL - 1), max_size=8), st.integers(0, 65535), st.booleans()), max_size=12)


@given(updates)
def test_after_any_updates_the_served_set_equals_the_state(changes: list[tuple[list[int], int, bool]]):
    bits = np.arange(TOTAL, dtype=np.uint16) * 1000
    replica = replica_of(bits)
    for version, (positions, value, everything) in enumerate(changes, start=2):
        if everything:
            bits[:] = (np.arange(TOTAL) * 31 + value) % 65536
        changed = change(bits, positions, value)
        replica.flip(version, None if everything else changed)
        assert replica.version == version
        np.testing.assert_array_equal(served(replica).view(np.uint32), bits.astype(np.uint32) << 16)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=64))
def test_widening_is_exact_for_every_bit_pattern(patterns: list[int]):
    bits = np.array(patterns, np.uint16)
    np.testing.assert_array_equal(served(replica_of(bits)), widened(bits))


def test_a_state_that_ends_within_a_chunk_is_written_whole():
    total = 3 * SMALL_CHUNK + 1
    bits = np.zeros(total, np.uint16)
    replica = replica_of(bits)
    for version in (2, 3):
        changed = change(bits, range(version, total, 3), version)
        replica.flip(version, changed)
        np.testing.assert_array_equal(served(replica).view(np.uint32) >> 16, bits)
    bits[:] = 16_256
    replica.flip(4, None)
    assert (served(replica) == 1.0).all()


def test_a_held_set_does_not_change_and_the_second_flip_waits_for_it():
    bits = np.zeros(TOTAL, np.uint16)
    replica = replica_of(bits)
    once, twice = threading.Event(), threading.Event()

    def flip_twice() -> None:
        for version, flipped in ((2, once), (3, twice)):
            bits[:] = version
            replica.flip(version, None)
            flipped.set()

    with replica.acquire() as held:
        thread = threading.Thread(target=flip_twice)
        thread.start()
        assert once.wait(20)
        assert held.version == 1
        assert (held.flat == 0).all()
        assert not twice.wait(0.05)
        assert replica.version == 2
        assert (held.flat == 0).all()
    thread.join(20)
    assert twice.is_set()
    assert replica.version == 3


def test_a_holder_that_fails_gives_the_set_back():
    bits = np.zeros(TOTAL, np.uint16)
    replica = replica_of(bits)
    with pytest.raises(RuntimeError), replica.acquire():
        raise RuntimeError
    for version in (2, 3):
        replica.flip(version, [])
    assert replica.version == 3


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**16))
def test_while_updates_flow_every_reader_sees_exactly_one_version(seed: int):
    generator = np.random.default_rng(seed)
    bits = np.full(TOTAL, 1, np.uint16)
    replica = replica_of(bits)
    torn: list[tuple[int, np.ndarray]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            with replica.acquire() as held:
                seen = held.flat.view(np.uint32) >> 16
                if not (seen == held.version).all():
                    torn.append((held.version, seen))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for version in range(2, 60):
        whole = bool(generator.integers(2))
        bits[:] = version
        replica.flip(version, None if whole else range(TOTAL // SMALL_CHUNK))
    done.set()
    for reader in readers:
        reader.join(20)
    assert torn == []


def test_a_flipped_model_answers_as_a_new_one_of_the_same_state_does():
    (bundle, old), (_, new) = tiny_bundle(seed=1), tiny_bundle(seed=2)
    task = Classification(bundle)
    inputs = task.encode(["a good movie", "what a dull film"])
    bits = old.copy()
    replica = Replica(task, bundle.layout, bits, 1)

    def answer() -> list[tuple[float, ...]]:
        with replica.acquire() as held:
            return [found.probabilities for found in task.answer(held.model, inputs)]

    before = answer()
    for version, state in ((2, new), (3, old), (4, new)):
        changed = np.unique(np.flatnonzero(bits != state) // SMALL_CHUNK).tolist()
        bits[:] = state
        replica.flip(version, changed)
    fresh = task.answer(task.new_model(bundle.layout, torch.from_numpy(widened(new))), inputs)
    assert answer() == [found.probabilities for found in fresh]
    assert answer() != before


channel_updates = st.lists(
    st.tuples(
        st.sampled_from(["current", "blessed", "close", "anew"]),
        st.lists(st.integers(0, TOTAL - 1), max_size=8),
        st.integers(0, 65535),
        st.booleans(),
    ),
    max_size=16,
)


@given(channel_updates)
def test_after_any_updates_of_two_channels_each_serves_its_own_state(changes: list[tuple[str, list[int], int, bool]]):
    states = {Channel.CURRENT: np.arange(TOTAL, dtype=np.uint16) * 1000}
    replica = replica_of(states[Channel.CURRENT])
    for version, (what, positions, value, everything) in enumerate(changes, start=2):
        if what == "close":
            replica.close(Channel.BLESSED)
            states.pop(Channel.BLESSED, None)
            continue
        channel = Channel.BLESSED if what == "anew" else Channel[what.upper()]
        if channel not in states or what == "anew":
            states[channel] = np.full(TOTAL, value, np.uint16)
            assert not replica.serves(channel, states[channel])
            replica.open(channel, states[channel], version)
            assert replica.serves(channel, states[channel])
        else:
            changed = change(states[channel], positions, value)
            replica.flip(version, None if everything else changed, channel)
        assert replica.versions[channel] == version
        assert replica.versions.keys() == states.keys()
        for one, bits in states.items():
            with replica.acquire(one) as held:
                assert (held.channel, held.version) == (one, replica.versions[one])
                np.testing.assert_array_equal(held.flat.view(np.uint32), bits.astype(np.uint32) << 16)


def test_a_channel_that_is_not_in_use_is_answered_by_the_current_one():
    replica = replica_of(np.zeros(TOTAL, np.uint16))
    with replica.acquire(Channel.BLESSED) as held:
        assert (held.channel, held.version) == (Channel.CURRENT, 1)
    replica.open(Channel.BLESSED, np.ones(TOTAL, np.uint16), 7)
    with replica.acquire(Channel.BLESSED) as blessed:
        replica.close(Channel.BLESSED)
        assert (blessed.channel, blessed.version) == (Channel.BLESSED, 7)
        assert (blessed.flat.view(np.uint32) == 1 << 16).all()


def test_two_channels_and_a_spare_are_three_sets():
    replica = replica_of(np.zeros(TOTAL, np.uint16))
    replica.open(Channel.BLESSED, np.zeros(TOTAL, np.uint16), 1)
    seen = set()
    for version, channel in enumerate([Channel.CURRENT, Channel.BLESSED, Channel.BLESSED, Channel.CURRENT] * 3, start=2):
        replica.flip(version, [], channel)
        for one in Channel:
            with replica.acquire(one) as held:
                seen.add(held.flat.ctypes.data)
    assert len(seen) == 3


def test_a_flip_that_failed_half_way_leaves_no_trace_in_what_is_served_later(monkeypatch: pytest.MonkeyPatch):
    bits = np.zeros(TOTAL, np.uint16)
    replica = replica_of(bits)
    changed = change(bits, [3, 5], 1)
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(Replica, "_widen", raise_memory_error)
        replica.flip(2, changed)
    assert replica.version == 1
    for version in (3, 4):
        replica.flip(version, change(bits, [version], version))
        np.testing.assert_array_equal(served(replica).view(np.uint32), bits.astype(np.uint32) << 16)


def test_a_channel_that_could_not_be_opened_again_is_still_served_from_its_old_state(monkeypatch: pytest.MonkeyPatch):
    replica, old, new = replica_of(np.zeros(TOTAL, np.uint16)), np.ones(TOTAL, np.uint16), np.full(TOTAL, 2, np.uint16)
    replica.open(Channel.BLESSED, old, 7)
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(Replica, "_widen", raise_memory_error)
        replica.open(Channel.BLESSED, new, 8)
    assert replica.serves(Channel.BLESSED, old)
    assert not replica.serves(Channel.BLESSED, new)
    assert replica.versions[Channel.BLESSED] == 7


def raise_memory_error(*_: object) -> None:
    raise MemoryError
