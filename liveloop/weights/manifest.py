"""Signatures, and the two signed records: a version's manifest and the head. Knows nothing of stores or of what the weights are.

A signature is Ed25519 over purpose, a zero byte and the payload, so that a manifest can never stand in for a head.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError

from liveloop.errors import BadSignature, BlobCorrupt
from liveloop.times import unix_seconds
from liveloop.v1.weights_pb2 import Head, Manifest, Signed
from liveloop.weights.store import BLOB_LIMIT

HeadKey = tuple[int, int]
"""(epoch, revision): of two heads the greater one counts."""

_BUNDLE_LIMIT = 256
"""Parts of a model bundle: 256 MiB, ten times the largest tokenizers."""

_KEYFRAME_LIMIT = 64
"""Parts of a keyframe's list of chunks: a state of 2 TiB."""


def sign(purpose: str, payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """A serialised Signed. The same payload and key give the same bytes."""
    signature = key.sign(_signed_bytes(purpose, payload))
    return Signed(purpose=purpose, payload=payload, signature=signature).SerializeToString(deterministic=True)


def open_signed(purpose: str, blob: bytes, verify_key: Ed25519PublicKey | None) -> bytes:
    """The payload of a Signed of this purpose. Without a key the signature is not looked at: for copying, never for serving.

    Raises:
        BadSignature: not signed for this purpose with this key.
        BlobCorrupt: larger than any record.
    """
    if len(blob) > BLOB_LIMIT:
        raise BlobCorrupt(f"a {purpose} of {len(blob)} bytes")
    try:
        signed = Signed.FromString(blob)
        if verify_key is not None:
            verify_key.verify(signed.signature, _signed_bytes(purpose, signed.payload))
    except (DecodeError, InvalidSignature) as error:
        raise BadSignature(f"a {purpose} is not signed by the learner's key") from error
    if signed.purpose != purpose:
        raise BadSignature(f"a {signed.purpose!r} stands where a {purpose} is expected")
    return signed.payload


def open_manifest(blob: bytes, verify_key: Ed25519PublicKey | None) -> Manifest:
    """The manifest in a blob. Raises BadSignature, BlobCorrupt."""
    try:
        manifest = Manifest.FromString(open_signed("manifest", blob, verify_key))
    except DecodeError as error:
        raise BlobCorrupt("a signed manifest does not parse") from error
    if manifest.format != 1 or manifest.version == 0:
        raise BlobCorrupt(f"this build reads manifests of format 1, not {manifest.format}")
    if len(manifest.bundle_blobs) > _BUNDLE_LIMIT or len(manifest.keyframe_blobs) > _KEYFRAME_LIMIT:
        raise BlobCorrupt("a signed manifest names more blobs than any model has")
    try:
        unix_seconds(manifest.created_at), accepted_times([manifest])
    except ValueError as error:
        raise BlobCorrupt("a signed manifest names a time that is none") from error
    return manifest


def open_head(blob: bytes, verify_key: Ed25519PublicKey | None) -> Head:
    """The head in a blob. Raises BadSignature, BlobCorrupt."""
    try:
        head = Head.FromString(open_signed("head", blob, verify_key))
    except DecodeError as error:
        raise BlobCorrupt("a signed head does not parse") from error
    if head.format != 1 or not head.chain or head.chain[-1].version != head.current:
        raise BlobCorrupt(f"a head of format {head.format} without a chain to its current version")
    if not 0.0 <= head.canary_share <= 1.0:
        raise BlobCorrupt(f"a head whose canary is a share of {head.canary_share}")
    return head


def head_key(head: Head) -> HeadKey:
    """What orders heads."""
    return head.epoch, head.revision


def accepted_times(manifests: Sequence[Manifest]) -> list[float]:
    """When the feedback that these versions newly include was accepted, Unix seconds."""
    return [unix_seconds(item.accepted_at) for manifest in manifests for item in manifest.included]


def _signed_bytes(purpose: str, payload: bytes) -> bytes:
    return purpose.encode() + b"\0" + payload
