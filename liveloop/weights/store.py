"""The weight store: the port that every adapter keeps, and the choice of one by URL. Knows nothing of what blobs mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, Self

BLOB_LIMIT = 1 << 20
"""Bytes in one blob at most: small enough for Redis to answer others in between."""


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

        Raises HeadConflict when it is not, or when (epoch, revision) is not greater than what is there; Unavailable.
        """
        ...

    def wait(self, seen: tuple[int, int] | None, timeout: float) -> bool:
        """Return True as soon as a head other than `seen` may be there, False after `timeout` seconds. Raises Unavailable."""
        ...

    def names(self) -> Iterable[str]:
        """The names of all blobs. Raises Unavailable."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove blobs; those that are not there are no error. Raises Unavailable."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
