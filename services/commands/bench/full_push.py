"""The whole model through a store, as most systems move weights: written by one, read by many. Knows clients and files; knows no patch.

Run as a module it is a reader: it is told names, reads each, and says when the last one was in its memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import unquote, urlsplit

from liveloop.weights.redis_client import client_for, parse
from services.commands.bench.worker import Worker, messages, tell

CHUNK = 4 << 20


class Place(Protocol):
    """Where the bytes go through."""

    def put(self, name: str, content: bytes | memoryview) -> None:
        """Make `content` readable under `name`."""
        ...

    def get(self, name: str) -> bytes:
        """All of it."""
        ...

    def clear(self, names: Sequence[str]) -> None:
        """Remove what was put."""
        ...


class _Redis:
    """`SET` and `GET`."""

    def __init__(self, url: str, *, password_file: Path | None, ca_file: Path | None) -> None:
        address = parse(url)
        self._key = f"{{{address.prefix}}}:push:"  # the braces put all keys on one node of a cluster
        self._client = client_for(address, password_file=password_file, ca_file=ca_file)

    def put(self, name: str, content: bytes | memoryview) -> None:
        self._client.set(self._key + name, content)

    def get(self, name: str) -> bytes:
        return cast(bytes, self._client.get(self._key + name))

    def clear(self, names: Sequence[str]) -> None:
        self._client.delete(*(self._key + name for name in names))
        self._client.close()


class _Folder:
    """A file, written aside and moved into place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, content: bytes | memoryview) -> None:
        aside = self._folder / f".{name}"
        aside.write_bytes(content)
        aside.rename(self._folder / name)

    def get(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def clear(self, names: Sequence[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)


def place_at(url: str, *, password_file: Path | None = None, ca_file: Path | None = None) -> Place:
    """The place at file:///FOLDER, or in Redis at a URL of the forms in redis_client.py; the files are those of the settings."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return _Folder(Path(unquote(parts.path)))
    return _Redis(url, password_file=password_file, ca_file=ca_file)


class FullPush:
    """A writer with readers that wait, each a process of its own."""

    def __init__(self, place: Place, content: bytes, readers: Sequence[Worker]) -> None:
        self._place, self._content, self._readers = place, content, readers
        self._chunks = [f"part-{at}" for at in range(0, len(content), CHUNK)]

    def whole(self, readers: int) -> float:
        """Seconds from the beginning of one write until the last of so many readers has all bytes."""
        started = time.monotonic()
        self._place.put("whole", self._content)
        self._announce("whole", readers, last=True)
        return self._last(readers) - started

    def in_chunks(self, readers: int) -> float:
        """The same in chunks of 4 MiB, each read as soon as it is written: the best form."""
        started = time.monotonic()
        content = memoryview(self._content)
        for number, name in enumerate(self._chunks, start=1):
            self._place.put(name, content[(number - 1) * CHUNK : number * CHUNK])
            self._announce(name, readers, last=number == len(self._chunks))
        return self._last(readers) - started

    def clear(self) -> None:
        """Remove what was written."""
        self._place.clear(["whole", *self._chunks])

    def _announce(self, name: str, readers: int, *, last: bool) -> None:
        for reader in self._readers[:readers]:
            reader.tell(name=name, last=last)

    def _last(self, readers: int) -> float:
        found = [reader.hear() for reader in self._readers[:readers]]
        assert all(answer["bytes"] == len(self._content) for answer in found)
        return max(float(answer["at"]) for answer in found)


@contextmanager
def full_push(url: str, content: bytes, *, readers: int, **files: Path | None) -> Iterator[FullPush]:
    """`url` and `files` are as for `place_at`. Start so many readers, wait until they are connected, and end them afterwards."""
    workers: list[Worker] = []
    push = None
    told = {name: file and str(file) for name, file in files.items()}
    try:
        workers += [Worker("services.commands.bench.full_push", url=url, **told) for _ in range(readers)]
        for worker in workers:
            worker.hear()
        push = FullPush(place_at(url, **files), content, workers)
        yield push
    finally:
        for worker in workers:
            worker.close()
        if push is not None:
            push.clear()


def main() -> None:
    """Read what the parent names."""
    told = messages()
    first = next(told)
    place = place_at(first.pop("url"), **{name: file and Path(file) for name, file in first.items()})
    tell(ready=True)
    read: list[bytes] = []
    for message in told:
        read.append(place.get(message["name"]))
        if message["last"]:
            tell(at=time.monotonic(), bytes=sum(map(len, read)))
            read = []


if __name__ == "__main__":
    main()
