"""Nothing passes for signed that is not."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from liveloop.errors import BadSignature, BlobCorrupt
from liveloop.v1.weights_pb2 import ChainLink, Head, Manifest, Signed
from liveloop.weights.manifest import open_head, open_manifest, open_signed, sign
from tests.weight_samples import KEY


def test_what_was_signed_opens() -> None:
    assert open_signed("manifest", sign("manifest", b"payload", KEY), KEY.public_key()) == b"payload"


def test_the_same_payload_gives_the_same_bytes() -> None:
    assert sign("manifest", b"payload", KEY) == sign("manifest", b"payload", KEY)


def test_any_one_wrong_bit_is_refused() -> None:
    signed = sign("manifest", b"payload", KEY)
    for place in range(8 * len(signed)):
        blob = bytearray(signed)
        blob[place // 8] ^= 1 << place % 8
        with pytest.raises(BadSignature):
            open_signed("manifest", bytes(blob), KEY.public_key())


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(BadSignature):
        open_signed("manifest", blob, KEY.public_key())


def test_another_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        open_signed("manifest", sign("manifest", b"payload", Ed25519PrivateKey.generate()), KEY.public_key())


def test_a_manifest_cannot_stand_in_for_a_head() -> None:
    blob = sign("manifest", b"payload", KEY)
    with pytest.raises(BadSignature):
        open_signed("head", blob, KEY.public_key())
    renamed = Signed.FromString(blob)
    renamed.purpose = "head"
    with pytest.raises(BadSignature):
        open_signed("head", renamed.SerializeToString(), KEY.public_key())


def test_signed_records_of_another_format_are_refused() -> None:
    with pytest.raises(BlobCorrupt):
        open_manifest(sign("manifest", Manifest(format=2, version=1).SerializeToString(), KEY), KEY.public_key())
    with pytest.raises(BlobCorrupt):
        open_manifest(sign("manifest", b"\xff", KEY), KEY.public_key())
    with pytest.raises(BlobCorrupt):
        open_head(sign("head", b"\xff", KEY), KEY.public_key())


def test_a_head_must_lead_to_its_current_version() -> None:
    head = Head(format=1, epoch=1, revision=1, current=2, chain=[ChainLink(version=1)])
    with pytest.raises(BlobCorrupt):
        open_head(sign("head", head.SerializeToString(), KEY), KEY.public_key())
