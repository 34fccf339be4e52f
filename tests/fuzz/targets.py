"""What a store, or whoever can write to it, hands to the code that reads it. Knows every parser of weights; knows no fuzzer.

A target takes bytes, and raises only when something other than the one family of errors came of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError

from liveloop.errors import BlobMissing, WeightsRefused
from liveloop.v1.weights_pb2 import ChainLink, Head, IncludedFeedback, Layout, Manifest
from liveloop.weights.layout import check_layout, layout_digest
from liveloop.weights.manifest import accepted_times, open_head, open_manifest, sign
from liveloop.weights.patch import decode
from liveloop.weights.records import Records
from liveloop.weights.store import BLOB_LIMIT, blob_name, named
from tests.weight_samples import KEY, bundle, finite_bits, layout, patch_of

TOTAL = 4096
FOREIGN = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


class Blobs:
    """The reading half of a store, in memory; what it holds matches its names."""

    def __init__(self, *contents: bytes) -> None:
        self._blobs = named(contents)

    def get(self, names: list[str]) -> list[bytes]:
        try:
            return [self._blobs[name] for name in names]
        except KeyError as error:
            raise BlobMissing(str(error)) from None


def patch(content: bytes) -> None:
    """A part of a patch, as a blob."""
    with suppress(WeightsRefused):
        last = -1
        for positions, before, after in decode([content], finite_bits(0, TOTAL)):
            assert 0 < len(positions) == len(before) == len(after)
            assert last < positions[0] <= positions[-1] < TOTAL
            assert (np.diff(positions) > 0).all()
            last = positions[-1]


def head(content: bytes) -> None:
    """A head, signed by the learner, by another, and not at all."""
    foreign = sign("head", content, FOREIGN)
    for blob in (sign("head", content, KEY), foreign, content):
        for key in (KEY.public_key(), None):
            with suppress(WeightsRefused):
                opened = open_head(blob, key)
                assert key is None or blob != foreign
                assert opened.chain[-1].version == opened.current


def manifest(content: bytes) -> None:
    """A manifest, signed by the learner, by another, and not at all."""
    foreign = sign("manifest", content, FOREIGN)
    for blob in (sign("manifest", content, KEY), foreign, content):
        for key in (KEY.public_key(), None):
            with suppress(WeightsRefused):
                opened = open_manifest(blob, key)
                assert key is None or blob != foreign
                accepted_times([opened])


def table(content: bytes) -> None:
    """A layout."""
    with suppress(DecodeError, WeightsRefused):
        parsed = Layout.FromString(content)
        check_layout(parsed)
        assert len(layout_digest(parsed)) == 32


def model(content: bytes) -> None:
    """A model bundle that the manifest names, of whatever content."""
    if len(content) > BLOB_LIMIT:
        return
    names = Manifest(bundle_blobs=[blob_name(content)], model_digest=bytes.fromhex(blob_name(content)))
    with suppress(WeightsRefused):
        check_layout(Records(Blobs(content), None).bundle(names).layout)  # type: ignore[arg-type]


def keyframe(content: bytes) -> None:
    """The list of a keyframe's chunks that the manifest names, of whatever content."""
    if len(content) > BLOB_LIMIT:
        return
    names = Manifest(keyframe_blobs=[blob_name(content)], state_digest=bytes.fromhex(blob_name(content)))
    records = Records(Blobs(content), None)  # type: ignore[arg-type]
    with suppress(WeightsRefused):
        assert all(len(digest) == 32 for digest in records.keyframe(names))
        records.restore([names], TOTAL)


def _patches() -> list[bytes]:
    rng = np.random.default_rng(0)
    old, found = finite_bits(0, TOTAL), []
    for count in (1, 40, 400, TOTAL):
        new = old.copy()
        new[rng.choice(TOTAL, count, replace=False)] += rng.choice(np.array([1, 65_535, 2, 65_534, 0x7F80], np.uint16), count)
        found += patch_of(old, new)
    return found


def _head() -> bytes:
    links = [ChainLink(version=version, manifest=blob_name(bytes([version])), patch_bytes=1000) for version in (1, 7, 8)]
    record = Head(format=1, epoch=3, revision=9, current=8, blessed=7, canary_share=1.0, chain=links[1:], kept=links[:1])
    record.model_digest, record.keyframe_bytes = bytes(32), 123
    return record.SerializeToString(deterministic=True)


def _manifest() -> bytes:
    names = [blob_name(bytes([number])) for number in range(4)]
    record = Manifest(
        format=1, version=8, parent=7, epoch=3, layout_digest=bytes(32), state_digest=bytes(range(32)), model_digest=bytes(32)
    )
    record.bundle_blobs[:], record.patch_blobs[:], record.keyframe_blobs[:] = names[:2], names[2:3], names[3:]
    record.patch_bytes, record.step, record.parent_manifest = 1000, 12, names[0]
    record.included.extend([IncludedFeedback(), IncludedFeedback()])
    record.included[1].accepted_at.FromMicroseconds(1_700_000_000_123_456)
    record.created_at.FromMicroseconds(1_700_000_001_000_000)
    return record.SerializeToString(deterministic=True)


TARGETS: Mapping[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "patch": (patch, _patches()),
    "head": (head, [_head(), sign("head", _head(), KEY)]),
    "manifest": (manifest, [_manifest(), sign("manifest", _manifest(), KEY)]),
    "layout": (table, [layout().SerializeToString(deterministic=True)]),
    "bundle": (model, [bundle().SerializeToString(deterministic=True)]),
    "keyframe": (keyframe, [bytes(range(32)), bytes(64)]),
}
"""Each parser with well-formed inputs to begin from."""
