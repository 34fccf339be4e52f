"""docs/weights.md is enough for a second implementation: the one here was written from it, and its example has the bytes that it shows."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives import serialization

from liveloop.v1.weights_pb2 import ChainLink, Head, IncludedFeedback, Layout, Manifest, ModelBundle, PatchHeader, TensorSpec
from liveloop.weights.manifest import head_key, open_head, open_manifest, sign
from liveloop.weights.patch import Bits
from liveloop.weights.records import Records
from liveloop.weights.state import FlatState
from tests.fuzz.targets import Blobs
from tests.weight_samples import KEY, patch_of

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "weights.md"
_ONE = np.array([0x3F80, 0x4000, 0x3F00, 0xBE80, 0x3DCD, 0xBC24, 0x3A83, 0x0000], np.uint16)
_TWO = np.array([0x3F80, 0x4000, 0x3F00, 0xBE81, 0x3DCD, 0xBC22, 0x3A83, 0x0101], np.uint16)


def example() -> dict[str, bytes]:
    """The worked example: a model of eight values, and the step from version 1 to version 2."""
    tensors = [TensorSpec(name="embeddings", shape=[2], offset=0), TensorSpec(name="layer", shape=[2, 3], offset=2)]
    layout = Layout(format=1, tensors=tensors, frozen=2, total=8)
    model = ModelBundle(format=1, task="classification", model="example", labels=["no", "yes"], max_tokens=16, layout=layout)
    bundle = model.SerializeToString(deterministic=True)
    (part,) = patch_of(_ONE, _TWO)
    digests = {number: blake3(bits.tobytes()).digest() for number, bits in ((1, _ONE), (2, _TWO))}
    first = Manifest(format=1, version=1, epoch=1, bundle_blobs=[blake3(bundle).hexdigest()])
    first.layout_digest, first.model_digest = blake3(layout.SerializeToString(deterministic=True)).digest(), blake3(bundle).digest()
    first.state_digest, first.keyframe_blobs[:] = blake3(digests[1]).digest(), [blake3(digests[1]).hexdigest()]
    first.created_at.seconds = 1_800_000_000
    signed_first = sign("manifest", first.SerializeToString(deterministic=True), KEY)
    second = Manifest()
    second.CopyFrom(first)
    second.version, second.parent, second.step, second.parent_manifest = 2, 1, 1, blake3(signed_first).hexdigest()
    second.state_digest, second.keyframe_blobs[:] = blake3(digests[2]).digest(), []
    second.patch_blobs[:], second.patch_bytes = [blake3(part).hexdigest()], len(part)
    second.included.append(IncludedFeedback(accepted_at={"seconds": 1_800_000_001}))
    second.created_at.seconds = 1_800_000_002
    signed_second = sign("manifest", second.SerializeToString(deterministic=True), KEY)
    links = [ChainLink(version=1, manifest=blake3(signed_first).hexdigest())]
    links.append(ChainLink(version=2, manifest=blake3(signed_second).hexdigest(), patch_bytes=len(part)))
    head = Head(format=1, epoch=1, revision=2, current=2, blessed=1, canary_share=1.0, chain=links, keyframe_bytes=48)
    head.model_digest = first.model_digest
    return {
        "private key": bytes(range(32)),
        "public key": KEY.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw),
        "layout": layout.SerializeToString(deterministic=True),
        "bundle": bundle,
        "state of version 1": _ONE.tobytes(),
        "chunk list of version 1": digests[1],
        "state digest of version 1": first.state_digest,
        "state of version 2": _TWO.tobytes(),
        "state digest of version 2": second.state_digest,
        "patch part": part,
        "manifest of version 1": signed_first,
        "manifest of version 2": signed_second,
        "head": sign("head", head.SerializeToString(deterministic=True), KEY),
    }


def shown() -> dict[str, bytes]:
    """The example as the document shows it: names, and under each the bytes in hex."""
    block = _DOCUMENT.read_text().split("<!-- example -->\n```\n")[1].split("```")[0]
    entries = re.findall(r"^(\S.*)\n((?: {4}\S+\n)+)", block, re.MULTILINE)
    return {name: bytes.fromhex(digits) for name, digits in entries}


def test_the_document_shows_the_bytes_that_the_code_makes() -> None:
    assert shown() == example()


def test_the_shown_bytes_verify_and_lead_from_one_version_to_the_other() -> None:
    bytes_of = shown()
    head = open_head(bytes_of["head"], KEY.public_key())
    assert head_key(head) == (1, 2)
    first, second = (open_manifest(bytes_of[f"manifest of version {version}"], KEY.public_key()) for version in (1, 2))
    assert [link.manifest for link in head.chain] == [blake3(bytes_of[f"manifest of version {n}"]).hexdigest() for n in (1, 2)]
    names = ("state of version 1", "chunk list of version 1", "patch part", "manifest of version 1", "manifest of version 2", "bundle")
    records = Records(Blobs(*(bytes_of[name] for name in names)), KEY.public_key())  # type: ignore[arg-type]
    assert np.array_equal(records.restore(records.chain(head), 8).bits, _TWO)
    assert records.bundle(second).layout == Layout.FromString(bytes_of["layout"])
    assert first.state_digest == FlatState(_ONE.copy()).digest == state_digest(_ONE.tobytes())
    assert read_patch([bytes_of["patch part"]], _ONE.tolist()) == _TWO.tolist()


# What follows uses what the document says, zstd, blake3 and the contract's messages; nothing of liveloop's.


def state_digest(content: bytes) -> bytes:
    """The digest of a state, from its bytes."""
    return blake3(b"".join(blake3(content[at : at + (1 << 20)]).digest() for at in range(0, len(content), 1 << 20))).digest()


def read_patch(parts: list[bytes], bits: list[int]) -> list[int]:
    """What the parts of a patch make of a state."""
    new, rest = list(bits), b"".join(parts)  # a frame never lies across two parts
    while rest:
        (length,) = struct.unpack_from("<I", rest)
        header = PatchHeader.FromString(rest[4 : 4 + length])
        ends = list(accumulate(header.streams, initial=4 + length))
        old = bits[header.start : header.start + header.length]
        for index, value in read_frame(header, [rest[at:end] for at, end in pairwise(ends)], old).items():
            new[header.start + index] = value
        rest = rest[ends[-1] :]
    return new


def read_frame(header: PatchHeader, streams: list[bytes], old: list[int]) -> dict[int, int]:
    """The new values of one frame, by their index in its range."""
    exponents = [value >> 7 & 0xFF for value in old]
    groups = [min(max(exponent - (header.pivot - 4), 0), 4) for exponent in exponents]
    listed = list(read_gaps(unzstd(streams[0])))
    listed.sort(key=lambda index: (groups[index], index))
    low = [iter(unzstd(stream)) for stream in streams[3:]]
    high = iter(unzstd(streams[2]) or bytes(len(listed)))
    magnitudes = {index: next(low[groups[index]]) | next(high) << 8 for index in listed}
    signs = iter(bit for byte in streams[1] for bit in f"{byte:08b}")
    assert len(magnitudes) == header.count
    return {index: (old[index] + (-size if next(signs) == "1" else size)) & 0xFFFF for index, size in magnitudes.items()}


def read_gaps(stream: bytes) -> Iterator[int]:
    """The indices that a stream of gaps stands for."""
    index = 0
    for byte in stream:
        index += byte
        if byte < 255:
            yield index
            index += 1


def unzstd(stream: bytes) -> bytes:
    """The content of a stream."""
    return zstandard.decompress(stream) if stream else b""


@pytest.mark.parametrize("share", [0.0005, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("size", [1, 40_000])
def test_a_second_implementation_reads_the_same_patches(share: float, size: int) -> None:
    rng = np.random.default_rng(0)
    old = (rng.standard_normal(60_000, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    small_ones_first = np.argsort(np.abs((old & 0x7FFF).astype(np.int64) + rng.integers(-300, 300, len(old))))
    changed = small_ones_first[: max(1, int(share * len(old)))]
    new: Bits = old.copy()
    new[changed] += rng.integers(1, size + 1, len(changed)).astype(np.uint16) * rng.choice(np.array([1, 65_535], np.uint16), len(changed))
    parts = patch_of(old, new)
    assert read_patch(parts, old.tolist()) == new.tolist()
