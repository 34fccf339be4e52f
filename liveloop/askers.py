"""How people are named behind the edge: keyed hashes, never their names. Knows no file and no table."""

from __future__ import annotations

import hashlib


def asker_hash(key: bytes, *, user: str = "", session_id: str = "", prediction_id: str = "") -> bytes:
    """A keyed hash, 16 bytes, of `user`, else `session_id`, else the prediction.

    The kind of name is part of the hash, so that a session called like a user is not that user.
    """
    kind, name = (b"user", user) if user else (b"session", session_id) if session_id else (b"prediction", prediction_id)
    return hashlib.blake2b(name.encode(), key=key, digest_size=16, person=kind).digest()
