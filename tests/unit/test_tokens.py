"""Feedback tokens: what is accepted, and that nothing else is."""

from __future__ import annotations

import base64
import json
from itertools import product
from uuid import UUID

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveloop.errors import TokenExpired, TokenForged
from liveloop.keys import TokenKeys
from services.inference.tokens import Tokens

KEYS = TokenKeys(current="2", secrets={"1": b"1" * 32, "2": b"2" * 32})
OLD_KEYS = TokenKeys(current="1", secrets={"1": b"1" * 32})
PREDICTION = "0190b5a2-7d4e-7a31-9d5c-0123456789ab"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def tokens(keys: TokenKeys = KEYS, clock: Clock | None = None) -> Tokens:
    return Tokens(keys, b"a" * 32, window=60.0, clock=clock or Clock())


def signed(maker: Tokens | None = None) -> str:
    return (maker or tokens()).sign(PREDICTION, asker=b"\x01" * 16, version=7, propensity=0.5)


def test_a_token_says_what_was_put_into_it():
    claims = tokens().verify(signed(), PREDICTION)
    assert (claims.prediction_id, claims.asker, claims.version, claims.propensity) == (PREDICTION, b"\x01" * 16, 7, 0.5)
    assert claims.expires_at == 1_000_060.0


def test_a_token_of_an_older_key_stays_good_and_new_ones_use_the_current_key():
    assert tokens().verify(signed(tokens(OLD_KEYS)), PREDICTION).version == 7
    with pytest.raises(TokenForged):
        tokens(OLD_KEYS).verify(signed(), PREDICTION)


def test_a_missing_token_and_one_of_another_prediction_are_forged():
    for token, prediction in (("", PREDICTION), (signed(), PREDICTION[:-1] + "c"), (signed(), "")):
        with pytest.raises(TokenForged):
            tokens().verify(token, prediction)


def test_expired_is_said_only_of_a_token_whose_signature_is_good():
    clock = Clock()
    maker = tokens(clock=clock)
    token = signed(maker)
    clock.now += 60.0
    with pytest.raises(TokenExpired):
        maker.verify(token, PREDICTION)
    head, body, signature = token.split(".")
    with pytest.raises(TokenForged):
        maker.verify(f"{head}.{body}.{signature[::-1]}", PREDICTION)
    with pytest.raises(TokenForged):
        maker.verify(token, "another")


def test_a_token_wrong_by_any_single_bit_is_forged():
    token, verifier = signed().encode(), tokens()
    for place, bit in product(range(len(token)), range(8)):
        wrong = bytearray(token)
        wrong[place] ^= 1 << bit
        with pytest.raises(TokenForged):
            verifier.verify(wrong.decode("latin-1"), PREDICTION)


@given(
    st.uuids(), st.binary(min_size=16, max_size=16), st.integers(1, 2**32 - 1), st.floats(0, 1), st.integers(min_value=0), st.integers(0, 7)
)
def test_whatever_a_token_says_one_bit_makes_it_forged(
    prediction: UUID, asker: bytes, version: int, propensity: float, place: int, bit: int
):
    raw = bytearray(tokens().sign(str(prediction), asker=asker, version=version, propensity=propensity).encode())
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises(TokenForged):
        tokens().verify(raw.decode("latin-1"), str(prediction))


def test_a_pod_reads_the_keys_again_when_another_signs_with_a_newer_one():
    clock, files = Clock(), [OLD_KEYS]
    pod = Tokens(OLD_KEYS, b"a" * 32, window=60.0, clock=clock, read=lambda: files[-1])
    token = signed(tokens(KEYS, clock))
    with pytest.raises(TokenForged):
        pod.verify(token, PREDICTION)
    files.append(KEYS)
    with pytest.raises(TokenForged):  # it looks once a second at the most, whatever it is sent
        pod.verify(token, PREDICTION)
    clock.now += 1.0
    assert pod.verify(token, PREDICTION).version == 7
    assert jwt.get_unverified_header(signed(pod))["kid"] == "2"


def test_the_unused_bits_of_the_last_character_count_too():
    token = signed()
    last_byte = base64.urlsafe_b64decode(token.rpartition(".")[2] + "=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twins = [
        token[:-1] + character
        for character in alphabet
        if base64.urlsafe_b64decode((token[:-1] + character).rpartition(".")[2] + "=") == last_byte and character != token[-1]
    ]
    assert len(twins) == 3
    for twin in twins:
        with pytest.raises(TokenForged):
            tokens().verify(twin, PREDICTION)


@given(st.text(max_size=200))
def test_no_text_is_a_token(text: str):
    with pytest.raises(TokenForged):
        tokens().verify(text, PREDICTION)


def test_only_hs256_with_a_known_key_is_accepted():
    claims = jwt.decode(signed(), options={"verify_signature": False})

    def part(content: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    unsigned = f"{part({'alg': 'none', 'kid': '2'})}.{part(claims)}."
    for token in (
        unsigned,
        jwt.encode(claims, b"2" * 64, "HS512", headers={"kid": "2"}),
        jwt.encode(claims, KEYS.secrets["2"] * 2, "HS256", headers={"kid": "3"}),
        jwt.encode(claims, KEYS.secrets["2"], "HS256"),
        jwt.encode({**claims, "fmt": 2}, KEYS.secrets["2"], "HS256", headers={"kid": "2"}),
        jwt.encode({"jti": PREDICTION}, KEYS.secrets["2"], "HS256", headers={"kid": "2"}),
    ):
        with pytest.raises(TokenForged):
            tokens().verify(token, PREDICTION)


def test_the_asker_is_the_user_else_the_session_else_the_prediction():
    maker = tokens()
    ann = maker.asker(user="ann", session_id="s", prediction_id="p")
    assert ann == maker.asker(user="ann", session_id="other", prediction_id="q")
    session = maker.asker(user="", session_id="ann", prediction_id="p")
    assert session == maker.asker(user="", session_id="ann", prediction_id="q")
    alone = maker.asker(user="", session_id="", prediction_id="ann")
    assert len({ann, session, alone}) == 3
    other_key = Tokens(KEYS, b"b" * 32, window=1.0)
    assert other_key.asker(user="ann", session_id="", prediction_id="p") != ann
