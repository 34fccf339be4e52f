"""What goes wrong between a learner and its pods: a store that lies, and a Redis to which everything happens. Knows no version.

A store that lies keeps the port's promises: what it gives was checked against its name, else it raises as an adapter does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import redis

from liveloop.errors import BlobMissing
from liveloop.weights.manifest import HeadKey
from liveloop.weights.store import WeightStore, check_blob
from tests.servers import ValkeyServer

_MEMORY = 12
"""Old heads that may come again."""


class Killed(BaseException):
    """The process ends here: nothing may catch it."""


class FaultyStore:
    """A pod's view of `inner`. Blobs get lost and damaged on the way, old heads come again, and the pod may die at any call."""

    def __init__(self, inner: WeightStore, rng: random.Random, *, share: float) -> None:
        """`share` of the calls go wrong."""
        self._inner, self._rng = inner, rng
        self._heads: list[bytes] = []
        self.share = share
        self.calls_left: int | None = None  # until the pod dies

    def put(self, blobs: Mapping[str, bytes]) -> None:
        """Store blobs; who dies meanwhile has stored some."""
        for name, blob in blobs.items():
            self._call()
            self._inner.put({name: blob})

    def get(self, names: Sequence[str]) -> list[bytes]:
        """The blobs of these names, where nothing happened to one."""
        self._call()
        if names and self._goes_wrong():
            raise BlobMissing(f"the blob {self._rng.choice(names)} was dropped")
        blobs = self._inner.get(names)
        if names and self._goes_wrong():
            place = self._rng.randrange(len(names))
            blobs[place] = damaged(blobs[place], self._rng, others=blobs)
        return [check_blob(name, blob) for name, blob in zip(names, blobs, strict=True)]

    def missing(self, names: Iterable[str]) -> set[str]:
        """Those that are not there."""
        self._call()
        return self._inner.missing(names)

    def head(self) -> bytes | None:
        """The head, or an older one."""
        self._call()
        blob = self._inner.head()
        if blob is None:
            return None
        self._heads = [*self._heads[1 - _MEMORY :], blob]
        return self._rng.choice(self._heads) if self._goes_wrong() else blob

    def set_head(self, head: bytes, *, epoch: int, revision: int, expected: HeadKey | None) -> None:
        """Replace the head."""
        self._call()
        self._inner.set_head(head, epoch=epoch, revision=revision, expected=expected)

    def wait(self, seen: HeadKey | None, timeout: float) -> bool:
        """Wait for another head, or wake up for none."""
        self._call()
        return self._goes_wrong() or self._inner.wait(seen, timeout)

    def names(self) -> Iterable[str]:
        """The names of all blobs."""
        self._call()
        return self._inner.names()

    def delete(self, names: Iterable[str], *, head: bytes | None = None) -> None:
        """Remove blobs; who dies meanwhile has removed some."""
        for name in names:
            self._call()
            self._inner.delete([name], head=head)

    def close(self) -> None:
        """Let go of it."""
        self._inner.close()

    def __enter__(self) -> FaultyStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _goes_wrong(self) -> bool:
        return self._rng.random() < self.share

    def _call(self) -> None:
        if self.calls_left is not None:
            if self.calls_left <= 0:
                raise Killed
            self.calls_left -= 1


def damaged(blob: bytes, rng: random.Random, *, others: Sequence[bytes]) -> bytes:
    """`blob` cut short, with one wrong bit, with bytes after its end, or another one in its place."""
    kind = rng.randrange(4)
    if kind == 0:
        return blob[: rng.randrange(len(blob) + 1)]
    if kind == 1 and blob:
        wrong = bytearray(blob)
        wrong[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
        return bytes(wrong)
    return blob + b"\0" if kind == 2 else rng.choice(others)


class Disaster:
    """One thing at a time that happens to a Redis; each method but `end` begins one."""

    def __init__(self, server: ValkeyServer, rng: random.Random) -> None:
        self._server, self._rng = server, rng
        self._client = redis.Redis.from_url(server.url, socket_timeout=60)  # it may be saving, or have been paused
        self._heads: list[dict[bytes, bytes]] = []
        self._end: Callable[[], object] | None = None
        kinds = [self.flushed, self.restarted_empty, self.lost_its_last_writes, self.paused, self.away, self.full]
        self._kinds: list[Callable[[], None]] = [*kinds, self.blobs_lost, self.blobs_damaged, self.old_head, self.head_damaged]
        self._next: list[Callable[[], None]] = []
        self.happened: list[str] = []

    @property
    def under_way(self) -> bool:
        """One has begun and not ended."""
        return self._end is not None

    def begin(self) -> None:
        """Begin one: each kind comes once before any comes again."""
        self._heads = [*self._heads[1 - _MEMORY :], self._client.hgetall("{liveloop}:head")]
        if not self._next:
            self._next = self._rng.sample(self._kinds, len(self._kinds))
        kind = self._next.pop()
        self.happened.append(kind.__name__)
        self._end = lambda: None
        kind()

    def end(self) -> None:
        """End the one that is under way."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def close(self) -> None:
        """End what is under way, and let go."""
        self.end()
        self._client.close()

    def flushed(self) -> None:
        """It forgets everything."""
        self._client.flushall()

    def restarted_empty(self) -> None:
        """It dies, and comes again with nothing."""
        self._server.kill()
        self._server.start()

    def lost_its_last_writes(self) -> None:
        """It dies, and comes again as it was when this began."""
        self._client.save()

        def go_back() -> None:
            self._server.kill()
            self._server.start()
            (self._server.folder / "dump.rdb").unlink()

        self._end = go_back

    def paused(self) -> None:
        """It answers nobody; connections stay."""
        self._server.pause()
        self._end = self._server.resume

    def away(self) -> None:
        """It refuses connections."""
        self._server.kill()
        self._end = self._server.start

    def full(self) -> None:
        """It takes no more, and evicts nothing."""
        self._client.config_set("maxmemory-policy", "noeviction")
        self._client.config_set("maxmemory", max(1, self._client.info("memory")["used_memory"] - 100_000))
        self._end = lambda: self._client.config_set("maxmemory", 0)

    def blobs_lost(self) -> None:
        """Some blobs are gone."""
        for key in self._some_blobs():
            self._client.delete(key)

    def blobs_damaged(self) -> None:
        """Some blobs hold other bytes, for as long as nobody puts them back."""
        keys = self._some_blobs()
        blobs = [blob for blob in self._client.mget(keys) if blob is not None]
        for key, blob in zip(keys, blobs, strict=False):
            self._client.set(key, damaged(blob, self._rng, others=blobs))

    def old_head(self) -> None:
        """A head of before stands where the newest was."""
        if old := [head for head in self._heads if head]:
            self._client.hset("{liveloop}:head", mapping=self._rng.choice(old))

    def head_damaged(self) -> None:
        """The head is not what was signed."""
        blob = self._client.hget("{liveloop}:head", "head")
        if blob is not None:
            self._client.hset("{liveloop}:head", "head", damaged(blob, self._rng, others=[b""]))

    def _some_blobs(self) -> list[bytes]:
        keys = sorted(self._client.keys("{liveloop}:blob:*"))
        return self._rng.sample(keys, min(len(keys), self._rng.randint(1, 6)))
