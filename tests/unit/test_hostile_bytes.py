"""Whatever a store holds, reading it ends in the one family of errors, soon, and in bounded memory."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from liveloop.errors import BlobCorrupt, WeightsRefused, WrongLayout
from liveloop.v1.weights_pb2 import ChainLink, Head, Layout, Manifest, Signed, TensorSpec
from liveloop.weights.layout import check_layout
from liveloop.weights.manifest import open_head, open_manifest, sign
from liveloop.weights.patch import CHUNK, decode
from liveloop.weights.records import LINE_LIMIT, Records
from liveloop.weights.store import BLOB_LIMIT
from tests.fuzz.targets import TARGETS
from tests.weight_samples import KEY, patch_of

_ODD = [0, 1, 2, 127, 128, 254, 255]
_BOMBS = [zstandard.compress(bytes(1 << 26)), zstandard.compress(b"\xff" * (1 << 26))]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A well-formed input with a few bytes overwritten, cut out, doubled or put in."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(content)))
        until = min(at + draw(st.sampled_from([1, 1, 2, 8, 40])), len(content))
        new = bytes(draw(st.lists(st.sampled_from(_ODD) | st.integers(0, 255), max_size=12)))
        kind = draw(st.sampled_from(["overwrite", "insert", "delete", "double", "cut"]))
        if kind == "overwrite":
            content[at : at + len(new)] = new
        elif kind == "insert":
            content[at:at] = new
        elif kind == "delete":
            del content[at:until]
        elif kind == "double":
            content[at:at] = content[at:until] * draw(st.sampled_from([1, 3, 50]))
        else:
            del content[at:]
    return bytes(content)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
def test_arbitrary_bytes_are_refused_or_sound(target: str, data: st.DataObject) -> None:
    read, _ = TARGETS[target]
    read(data.draw(st.binary(max_size=600)))


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
def test_well_formed_bytes_that_were_changed_are_refused_or_sound(target: str, data: st.DataObject) -> None:
    read, seeds = TARGETS[target]
    read(data.draw(mutated(seeds)))


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_takes_its_well_formed_inputs(target: str) -> None:
    read, seeds = TARGETS[target]
    for seed in seeds:
        read(seed)


class Manifests:
    """A store that gives manifests of its choice under any name: what no store with a sound hash can do."""

    def __init__(self, answer: Callable[[str], Manifest]) -> None:
        self._answer = answer

    def get(self, names: list[str]) -> list[bytes]:
        return [Signed(purpose="manifest", payload=self._answer(name).SerializeToString()).SerializeToString() for name in names]


@pytest.mark.parametrize("link", [lambda version: version, lambda version: version % 5 + 1, lambda version: version + 1])
def test_a_chain_that_does_not_go_back_is_refused(link: Callable[[int], int]) -> None:
    store = Manifests(lambda name: Manifest(format=1, version=int(name), parent_manifest=str(link(int(name)))))
    with pytest.raises(BlobCorrupt, match="does not lead back"):
        Records(store, None).line("5")  # type: ignore[arg-type]


def test_a_chain_of_absurd_length_is_refused() -> None:
    store = Manifests(lambda name: Manifest(format=1, version=int(name), parent_manifest=str(int(name) - 1)))
    records = Records(store, None)  # type: ignore[arg-type]
    with pytest.raises(BlobCorrupt, match="does not lead back"):
        records.line(str(LINE_LIMIT + 100))
    links = [ChainLink(version=version, manifest=str(version)) for version in range(1, LINE_LIMIT + 2)]
    with pytest.raises(BlobCorrupt, match="chain is of"):
        records.chain(Head(format=1, current=len(links), chain=links))


def test_a_head_that_names_versions_out_of_order_is_refused() -> None:
    versions = {"a": (5, "x"), "b": (3, "a")}
    store = Manifests(lambda name: Manifest(format=1, version=versions[name][0], parent_manifest=versions[name][1], keyframe_blobs=["k"]))
    head = Head(format=1, current=3, chain=[ChainLink(version=5, manifest="a"), ChainLink(version=3, manifest="b")])
    with pytest.raises(BlobCorrupt, match="not a line"):
        Records(store, None).chain(head)  # type: ignore[arg-type]


def test_a_record_larger_than_a_blob_is_refused_unread() -> None:
    blob = sign("head", bytes(BLOB_LIMIT + 1), KEY)
    for key in (KEY.public_key(), None):
        with pytest.raises(BlobCorrupt, match="bytes"):
            open_head(blob, key)


def test_a_manifest_that_names_more_blobs_than_any_model_has_is_refused() -> None:
    for many in (Manifest(format=1, version=1, bundle_blobs=["a"] * 257), Manifest(format=1, version=1, keyframe_blobs=["a"] * 65)):
        with pytest.raises(BlobCorrupt, match="more blobs"):
            open_manifest(sign("manifest", many.SerializeToString(), KEY), KEY.public_key())


@pytest.mark.parametrize(("seconds", "nanos"), [(2**63 - 1, 0), (-(2**63), 0), (0, -1), (0, 2**31 - 1)])
def test_a_time_that_is_none_is_refused(seconds: int, nanos: int) -> None:
    made, taken = Manifest(format=1, version=1), Manifest(format=1, version=1)
    made.created_at.seconds, made.created_at.nanos = seconds, nanos
    accepted = taken.included.add().accepted_at
    accepted.seconds, accepted.nanos = seconds, nanos
    for manifest in (made, taken):
        with pytest.raises(BlobCorrupt, match="time"):
            open_manifest(sign("manifest", manifest.SerializeToString(), KEY), KEY.public_key())


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_of_users_that_is_none_is_refused(share: float) -> None:
    head = Head(format=1, current=1, chain=[ChainLink(version=1)], canary_share=share)
    with pytest.raises(BlobCorrupt, match="share"):
        open_head(sign("head", head.SerializeToString(), KEY), KEY.public_key())


def test_a_shape_of_absurd_size_is_refused_at_once() -> None:
    for shape in ([2**64 - 1] * 100_000, [2**63, 2**63], [2**64 - 1, 0]):
        with pytest.raises(WrongLayout):
            check_layout(Layout(format=1, total=5, tensors=[TensorSpec(name="a", shape=shape)]))


@cache
def _largest_parts() -> list[bytes]:
    """A part with as many values as fit, one that hardly compresses and one that compresses to nearly nothing."""
    rng = np.random.default_rng(0)
    old = np.zeros(8 * CHUNK, np.uint16)
    random = rng.integers(1, 65_536, CHUNK, dtype=np.uint16) * (rng.random(CHUNK) < 0.5)
    return [patch_of(old[:CHUNK], random.astype(np.uint16))[0], patch_of(old, old + np.uint16(1))[0]]


def _most_allocated(part: bytes) -> int:
    bits = np.zeros(8 * CHUNK, np.uint16)
    tracemalloc.start()
    try:
        with suppress(WeightsRefused):
            list(decode([part], bits))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@cache
def _legally_allocated() -> int:
    return max(_most_allocated(part) for part in _largest_parts())


@settings(max_examples=40)
@given(st.data())
def test_a_part_never_makes_more_be_allocated_than_the_largest_legal_one_by_far(data: st.DataObject) -> None:

    parts = _largest_parts()
    content = data.draw(mutated([*parts, *[part[:64] + bomb + part[64:] for part in parts for bomb in _BOMBS]]))
    assert _most_allocated(content) <= 2 * _legally_allocated()
