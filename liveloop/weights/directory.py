"""The embedded weight store: a directory. Knows files; knows nothing of what blobs mean.

    blobs/ab/abcdef...           one file a blob, under its name
    heads/<epoch>-<revision>     one file a head, zero-padded; the greatest whole one counts, the last 16 stay
    heads/lock                   held while a head is compared and set, or compared and blobs deleted

Everything is created by link(2) from a file that is already on disk: under its name a file is whole or not there at all.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Self
from uuid import uuid4

from liveloop import crash
from liveloop.errors import BadSignature, BlobCorrupt, BlobMissing, HeadConflict, Unavailable
from liveloop.weights.manifest import HeadKey, head_key, open_head
from liveloop.weights.store import BLOB_LIMIT, blob_name, check_blob, is_name

_HEAD = re.compile(r"(\d{20})-(\d{20})")
_HEADS_KEPT = 16
_POLL = 0.01
_LEFT_BEHIND = 3600.0
"""Seconds after which a temporary file belongs to a process that died while writing it."""


class DirectoryStore:
    """A WeightStore in a folder, shared by any number of processes on one machine."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`; it is created by the first `put` or `set_head`."""
        self._folder = folder
        self._blobs = folder / "blobs"
        self._heads = folder / "heads"

    def put(self, blobs: Mapping[str, bytes]) -> None:
        """Store blobs durably; one that is there but damaged is replaced."""
        with self._as_unavailable("written"):
            folders = {self._path(name).parent for name, blob in blobs.items() if self._put(name, blob)}
            for folder in folders:
                _sync_folder(folder)

    def get(self, names: Sequence[str]) -> list[bytes]:
        """The blobs of these names, checked against them."""
        return [check_blob(name, self._read(name)) for name in names]

    def missing(self, names: Iterable[str]) -> set[str]:
        """Those that have no file."""
        return {name for name in names if not self._path(name).exists()}

    def head(self) -> bytes | None:
        """The greatest head that is whole."""
        newest = self._newest()
        return newest[1] if newest else None

    def set_head(self, head: bytes, *, epoch: int, revision: int, expected: HeadKey | None) -> None:
        """Replace the head under a lock that other processes respect."""
        with self._as_unavailable("written"), self._locked():
            newest = self._newest()
            current = newest[0] if newest else None
            if newest is not None and newest[1] == head:
                return
            if current != expected or (current is not None and (epoch, revision) <= current):
                raise HeadConflict(f"the head is {current}, not {expected}: another publisher moved it, or holds a newer epoch")
            path = self._heads / f"{epoch:020d}-{revision:020d}"
            path.unlink(missing_ok=True)  # only a torn file can be there
            _create(path, head)
            _sync_folder(self._heads)
            for name in self._head_names()[_HEADS_KEPT:]:
                (self._heads / name).unlink(missing_ok=True)

    def drop_heads(self) -> None:
        """Forget every head: one of another model may follow, whatever its epoch. The blobs stay."""
        with self._as_unavailable("written"), self._locked():
            for name in self._head_names():
                (self._heads / name).unlink(missing_ok=True)

    def wait(self, seen: HeadKey | None, timeout: float) -> bool:
        """Poll the folder of heads."""
        deadline = time.monotonic() + timeout
        looked_at: list[str] | None = None
        while True:
            names = self._head_names()
            if names != looked_at:
                looked_at, newest = names, self._newest()
                if newest is not None and newest[0] != seen:
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(_POLL, left))

    def names(self) -> Iterator[str]:
        """The names of all blobs; files that are none are passed over."""
        with self._as_unavailable("read"):
            yield from (name for folder in _listed(self._blobs) for name in _listed(self._blobs / folder) if is_name(name))

    def delete(self, names: Iterable[str], *, head: bytes | None = None) -> None:
        """Remove blobs, and what processes that died left half written; with `head` under the lock, so that it stays the head."""
        with self._as_unavailable("written"), nullcontext() if head is None else self._locked():
            if head is not None and self.head() != head:
                raise HeadConflict("another publisher moved the head of the weight store")
            for name in names:
                self._path(name).unlink(missing_ok=True)
            self._sweep()

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, name: str) -> Path:
        if not is_name(name):
            raise BlobMissing(f"{name!r} is not the name of a blob")
        return self._blobs / name[:2] / name

    def _put(self, name: str, blob: bytes) -> bool:
        """Write one blob unless it is there; True when something was written."""
        assert blob_name(blob) == name
        path = self._path(name)
        _make_folder(path.parent)
        try:
            _create(path, blob)
            crash.point("after-blob")
        except FileExistsError:
            if path.read_bytes() == blob:
                return False
            path.unlink(missing_ok=True)
            _create(path, blob)
        return True

    def _read(self, name: str) -> bytes:
        try:
            with self._path(name).open("rb") as file:
                return file.read(BLOB_LIMIT + 1)
        except FileNotFoundError:
            raise BlobMissing(f"the blob {name} is not in the weight store {self._folder}") from None
        except OSError as error:
            raise self._unavailable("read", error) from error

    def _head_names(self) -> list[str]:
        """Files that can be heads, the greatest first."""
        with self._as_unavailable("read"):
            return sorted((name for name in _listed(self._heads) if _HEAD.fullmatch(name)), reverse=True)

    def _newest(self) -> tuple[HeadKey, bytes] | None:
        for name in self._head_names():
            try:
                content = (self._heads / name).read_bytes()
            except FileNotFoundError:
                continue  # pruned between listing and reading: there are greater ones
            except OSError as error:
                raise self._unavailable("read", error) from error
            epoch, _, revision = name.partition("-")
            key = (int(epoch), int(revision))
            if _is_whole(content, key):
                return key, content
        return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        _make_folder(self._heads)
        with (self._heads / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            yield

    def _sweep(self) -> None:
        horizon = time.time() - _LEFT_BEHIND
        for folder in [self._heads, *(self._blobs / name for name in _listed(self._blobs))]:
            for name in _listed(folder):
                path = folder / name
                with suppress(FileNotFoundError):  # whoever writes it is alive, and done with it
                    if name.startswith(".") and path.stat().st_mtime < horizon:
                        path.unlink()

    @contextmanager
    def _as_unavailable(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unavailable(done, error) from error

    def _unavailable(self, done: str, error: OSError) -> Unavailable:
        return Unavailable(f"the weight store {self._folder} cannot be {done} ({error.strerror})")


def _create(path: Path, content: bytes) -> None:
    """Create `path` with `content` on disk. Raises FileExistsError."""
    temporary = path.with_name(f".{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  names alone are needed, and this is polled
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_whole(content: bytes, key: HeadKey) -> bool:
    """Whether a head file holds what its name says; who signed it is for its reader to judge."""
    try:
        return head_key(open_head(content, None)) == key
    except (BadSignature, BlobCorrupt):
        return False
