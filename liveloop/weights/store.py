"""The weight store: the port that every adapter keeps, and how blobs are named. Knows nothing of what blobs mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, Self

from blake3 import blake3

from liveloop.errors import BlobCorrupt

BLOB_LIMIT = 1 << 20
"""Bytes in one blob at most: small enough for Redis to answer others in between."""

_NAME = re.compile(r"[0-9a-f]{64}")


def blob_name(blob: bytes) -> str:
    """The name of a blob: the blake3 of its bytes, in hex. Raises ValueError for one that is too large to store."""
    if len(blob) > BLOB_LIMIT:
        raise ValueError(f"a blob holds at most {BLOB_LIMIT} bytes, not {len(blob)}")
    return blake3(blob).hexdigest()


def named(blobs: Iterable[bytes]) -> dict[str, bytes]:
    """The blobs by name, in order, as `WeightStore.put` takes them."""
    return {blob_name(blob): blob for blob in blobs}


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a blob."""
    return _NAME.fullmatch(text) is not None


def check_blob(name: str, blob: bytes) -> bytes:
    """`blob`, when it is the one of this name. Raises BlobCorrupt."""
    if len(blob) > BLOB_LIMIT or blake3(blob).hexdigest() != name:
        raise BlobCorrupt(f"the bytes of blob {name} do not match its name")
    return blob


class WeightStore(Protocol):
    """Content-addressed blobs and one head. A blob's name is the blake3 of its bytes in hex; putting it again is harmless."""

    def put(self, blobs: Mapping[str, bytes]) -> None:
        """Store blobs durably. Raises Unavailable."""
        ...

    def get(self, names: Sequence[str]) -> list[bytes]:
        """The blobs of these names, in order, their bytes checked against the names. Raises BlobMissing, BlobCorrupt, Unavailable."""
        ...

    def missing(self, names: Iterable[str]) -> set[str]:
        """Those of `names` that are not in the store. Raises Unavailable."""
        ...

    def head(self) -> bytes | None:
        """The newest head (a serialised Signed), or None where there is none yet. Raises Unavailable."""
        ...

    def set_head(self, head: bytes, *, epoch: int, revision: int, expected: tuple[int, int] | None) -> None:
        """Replace the head if it is still the one of (epoch, revision) `expected` (None: if there is none).

        The same bytes again are harmless: an earlier try may have got through without its answer. Raises HeadConflict when it is
        another, or when (epoch, revision) is not greater than what is there; Unavailable.
        """
        ...

    def wait(self, seen: tuple[int, int] | None, timeout: float) -> bool:
        """Return True as soon as a head other than `seen` may be there, False after `timeout` seconds. Raises Unavailable."""
        ...

    def names(self) -> Iterable[str]:
        """The names of all blobs. Raises Unavailable."""
        ...

    def delete(self, names: Iterable[str], *, head: bytes | None = None) -> None:
        """Remove blobs; those that are not there are no error. With `head` none is removed but while that is the store's head.

        Raises HeadConflict when it is another; Unavailable.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
