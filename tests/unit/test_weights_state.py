"""A flat state equals what its digest says, also after a patch that was not the right one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from blake3 import blake3

from liveloop.errors import BlobCorrupt, Unavailable, WeightsRefused, WrongLayout
from liveloop.v1.weights_pb2 import Layout, TensorSpec
from liveloop.weights.layout import check_layout, layout_digest
from liveloop.weights.patch import CHUNK
from liveloop.weights.staging import stage
from liveloop.weights.state import FlatState
from tests.weight_samples import FROZEN, TOTAL, chunks_that_differ, finite_bits, layout, patch_of, step


def test_the_digest_is_over_the_list_of_the_chunks_digests() -> None:
    bits = finite_bits()
    content = bits.tobytes()
    chunks = [blake3(content[at : at + 2 * CHUNK]).digest() for at in range(0, len(content), 2 * CHUNK)]
    assert len(chunks) == 3
    assert FlatState(bits).digest == blake3(b"".join(chunks)).digest()


def test_a_patched_state_equals_the_new_one_and_tells_what_changed() -> None:
    old, new = finite_bits(), step(finite_bits(), 1)
    state = FlatState(old.copy())
    chunks = state.apply_chain([patch_of(old, new)], FlatState(new.copy()).digest)
    assert np.array_equal(state.bits, new)
    assert state.digest == FlatState(new.copy()).digest
    assert chunks == chunks_that_differ(old, new)


def test_a_chain_of_patches_is_one_change() -> None:
    versions = [finite_bits()]
    for seed in range(5):
        versions.append(step(versions[-1], seed))
    patches = [patch_of(old, new) for old, new in pairwise(versions)]
    state = FlatState(versions[0].copy())
    chunks = state.apply_chain(patches, FlatState(versions[-1].copy()).digest)
    assert np.array_equal(state.bits, versions[-1])
    assert chunks == chunks_that_differ(versions[0], versions[-1])


@pytest.mark.parametrize("length", [1, 3])
def test_a_chain_that_does_not_give_the_promised_state_leaves_the_old_one(length: int) -> None:
    versions = [finite_bits()]
    for seed in range(length):
        versions.append(step(versions[-1], seed))
    patches = [patch_of(old, new) for old, new in pairwise(versions)]
    state = FlatState(versions[0].copy())
    before = state.digest
    for wrong in (bytes(32), before):
        with pytest.raises(BlobCorrupt):
            state.apply_chain(patches, wrong)
        assert np.array_equal(state.bits, versions[0])
        assert state.digest == before
    state.apply_chain(patches, FlatState(versions[-1].copy()).digest)


def test_a_patch_whose_second_part_is_damaged_leaves_the_old_state() -> None:
    old, new = np.random.default_rng(0).integers(0, 65_536, (2, TOTAL), dtype=np.uint16)
    parts = patch_of(old, new)
    state = FlatState(old.copy())
    with pytest.raises(BlobCorrupt):
        state.apply_chain([[parts[0], parts[1][:-1], *parts[2:]]], FlatState(new.copy()).digest)
    assert np.array_equal(state.bits, old)
    assert state.digest == FlatState(old.copy()).digest


@pytest.mark.parametrize("length", [1, 3])
def test_a_store_that_fails_half_way_leaves_the_old_state(length: int) -> None:
    versions = [finite_bits()]
    for seed in range(length):
        versions.append(step(versions[-1], seed))

    def broken_off(parts: list[bytes]) -> Iterator[bytes]:
        yield from parts
        raise Unavailable("gone")

    patches = [patch_of(old, new) for old, new in pairwise(versions)]
    state = FlatState(versions[0].copy())
    with pytest.raises(Unavailable):
        state.apply_chain([*patches[:-1], broken_off(patches[-1])], FlatState(versions[-1].copy()).digest)
    assert np.array_equal(state.bits, versions[0])
    assert state.digest == FlatState(versions[0].copy()).digest


def test_a_state_of_many_chunks_follows_its_patches() -> None:
    total = 12 * CHUNK + 7
    versions = [finite_bits(0, total)]
    for seed in range(2):
        versions.append(step(versions[-1], seed, changes=500, frozen=0))
    versions.append(versions[-1] + np.uint16(3))  # every value: several parts
    patches = [patch_of(old, new) for old, new in pairwise(versions)]
    for last in (1, 3):
        state = FlatState(versions[0].copy())
        chunks = state.apply_chain(patches[:last], FlatState(versions[last].copy()).digest)
        assert np.array_equal(state.bits, versions[last])
        assert chunks == chunks_that_differ(versions[0], versions[last])


def test_parts_that_overlap_are_refused() -> None:
    old, new = finite_bits(), step(finite_bits(), 1)
    (part,) = patch_of(old, new)
    state = FlatState(old.copy())
    with pytest.raises(BlobCorrupt, match="overlap"):
        state.apply_chain([[part, part]], state.digest)
    assert np.array_equal(state.bits, old)


def test_staging_changes_nothing_and_knows_the_digest() -> None:
    state, new = FlatState(finite_bits()), step(finite_bits(), 1)
    before = state.digest
    staged = stage(state, new, layout())
    assert state.digest == before
    assert staged.digest == FlatState(new.copy()).digest
    assert staged.changed == np.count_nonzero(finite_bits() != new)


@pytest.mark.parametrize("pattern", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_a_weight_that_is_not_finite_is_never_staged(pattern: int) -> None:
    new = finite_bits()
    new[-1] = pattern
    with pytest.raises(WeightsRefused, match="not finite"):
        stage(FlatState(finite_bits()), new, layout())


def test_a_frozen_value_cannot_change() -> None:
    new = finite_bits()
    new[FROZEN - 1] ^= 1
    with pytest.raises(ValueError, match="frozen"):
        stage(FlatState(finite_bits()), new, layout())


def test_bits_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous array"):
        stage(FlatState(finite_bits()), finite_bits()[:-1], layout())


def test_a_layout_s_digest_changes_with_everything_in_it() -> None:
    others = [layout(TOTAL + 1), layout(frozen=FROZEN + 1)]
    renamed = layout()
    renamed.tensors[0].name = "other"
    assert len({layout_digest(one) for one in [layout(), *others, renamed]}) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        Layout(format=2, total=4, tensors=[TensorSpec(name="a", shape=[4])]),
        Layout(format=1),
        Layout(format=1, total=5, tensors=[TensorSpec(name="a", shape=[4])]),
        Layout(format=1, total=4, frozen=2, tensors=[TensorSpec(name="a", shape=[4])]),
        Layout(format=1, total=8, tensors=[TensorSpec(name="a", shape=[4]), TensorSpec(name="a", shape=[4], offset=4)]),
        Layout(format=1, total=8, tensors=[TensorSpec(name="a", shape=[4]), TensorSpec(name="b", shape=[4], offset=3)]),
    ],
)
def test_a_layout_that_is_not_sound_is_refused(wrong: Layout) -> None:
    check_layout(layout())
    with pytest.raises(WrongLayout):
        check_layout(wrong)
