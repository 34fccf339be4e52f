"""Feedback tokens: who may judge which answer, and until when. Knows the token keys and the asker key; knows no gRPC."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import jwt
from jwt.utils import base64url_decode, base64url_encode

from liveloop.askers import asker_hash
from liveloop.errors import Misconfigured, TokenExpired, TokenForged
from liveloop.keys import TokenKeys

_ALGORITHM = "HS256"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says."""

    prediction_id: str
    asker: bytes  # keyed hash, 16 bytes
    version: int
    propensity: float
    expires_at: float  # Unix seconds


class Tokens:
    """Makes tokens with the current key and verifies those of every key it has."""

    def __init__(
        self,
        keys: TokenKeys,
        asker_key: bytes,
        *,
        window: float,
        clock: Callable[[], float] = time.time,
        read: Callable[[], TokenKeys] | None = None,
    ) -> None:
        """`window` is a token's lifetime in seconds, `clock` tells Unix seconds; `read` reads the keys again."""
        self._read = read
        self._read_at = -math.inf
        self._keys = keys
        self._asker_key = asker_key
        self._window = window
        self._clock = clock

    def asker(self, *, user: str, session_id: str, prediction_id: str) -> bytes:
        """The asker as everything behind the edge knows him: see `asker_hash`."""
        return asker_hash(self._asker_key, user=user, session_id=session_id, prediction_id=prediction_id)

    def client(self, name: str) -> bytes:
        """An API client as a judge: its own keyed hash, which is no user's."""
        return hashlib.blake2b(name.encode(), key=self._asker_key, digest_size=16, person=b"client").digest()

    @property
    def window(self) -> float:
        """Seconds in which an answer can be judged."""
        return self._window

    def sign(self, prediction_id: str, *, asker: bytes, version: int, propensity: float) -> str:
        """A token for one answer, good for the window (seconds) from now on."""
        claims = {
            "fmt": _FORMAT,
            "jti": prediction_id,
            "sub": asker.hex(),
            "ver": version,
            "prp": propensity,
            "exp": self._clock() + self._window,
        }
        return jwt.encode(claims, self._keys.secrets[self._keys.current], _ALGORITHM, headers={"kid": self._keys.current})

    def verify(self, token: str, prediction_id: str) -> Claims:
        """What `token` says of `prediction_id`.

        Raises TokenForged when it is missing, was not made here or is of another prediction, TokenExpired when it was good once.
        """
        if not token:
            raise TokenForged("the feedback token is missing: send the one that came with the answer")
        claims = self._open(token)
        if claims.prediction_id != prediction_id:
            raise TokenForged("the feedback token is of another prediction")
        if claims.expires_at <= self._clock():
            raise TokenExpired("the feedback token has expired: the time in which this answer could be judged is over")
        return claims

    def _open(self, token: str) -> Claims:
        try:
            key = self._key(jwt.get_unverified_header(token)["kid"])
            said = jwt.decode(token, key, algorithms=[_ALGORITHM], options={"verify_exp": False})
            signature = token.rpartition(".")[2]
            # 256 bits leave two unused in the last character: without this four spellings of one signature would be good.
            if said["fmt"] != _FORMAT or base64url_encode(base64url_decode(signature)).decode() != signature:
                raise TokenForged("the feedback token was not made here")
            return Claims(said["jti"], bytes.fromhex(said["sub"]), said["ver"], said["prp"], said["exp"])
        except (jwt.PyJWTError, KeyError, ValueError) as error:
            raise TokenForged("the feedback token was not made here") from error

    def _key(self, key_id: str) -> bytes:
        """The key of that id, read again where it is not known, once a second at the most. Raises KeyError."""
        now = self._clock()
        if key_id not in self._keys.secrets and self._read is not None and abs(now - self._read_at) >= 1.0:
            self._read_at = now
            with suppress(Misconfigured):  # a file that cannot be read now takes nothing from the keys at hand
                self._keys = self._read()
        return self._keys.secrets[key_id]
