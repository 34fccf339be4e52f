"""The distributed weight store: Redis. Knows keys and commands; knows nothing of what blobs mean, nor of where the server is.

    {PREFIX}:blob:NAME    a blob
    {PREFIX}:head         a hash: epoch, revision, head, and the digest of these three; where it does not match there is no head
    {PREFIX}:moved        a channel: told after every new head

PREFIX is `liveloop`, or what the URL's query names (`?prefix=x`); the braces put everything on one node of a cluster. Redis is a copy
of the learner's truth: nothing here asks it to be durable, to expire or to evict, and no CONFIG is needed. What each role may do there is
in deploy/redis/users.acl.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

import redis
from blake3 import blake3

from liveloop.errors import BlobMissing, HeadConflict, Unavailable
from liveloop.weights.manifest import HeadKey
from liveloop.weights.redis_client import FAILURES, check_files, client_for, parse, reason
from liveloop.weights.store import blob_name, check_blob, is_name

_POLL = 1.0
"""Seconds between two looks at the head while waiting: the channel only wakes up."""

_BATCH = 16
"""Blobs in one command at most: 16 MiB in flight."""

_NAMES = 1000
"""Names in one command at most."""

# KEYS: head. ARGV: expected epoch and revision (empty: none), new epoch, revision, head, digest, channel (among KEYS it would be one that
# is missing, which a slot that migrates refuses). Answers what is there when it refuses.
_SET_HEAD = """
local there = redis.call('HMGET', KEYS[1], 'epoch', 'revision', 'head')
if there[3] == ARGV[5] then return {} end
local epoch, revision = there[1] or '', there[2] or ''
if epoch ~= ARGV[1] or revision ~= ARGV[2] then return {epoch, revision} end
if epoch ~= '' then
  local e, r, ne, nr = tonumber(epoch), tonumber(revision), tonumber(ARGV[3]), tonumber(ARGV[4])
  if ne < e or (ne == e and nr <= r) then return {epoch, revision} end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'revision', ARGV[4], 'head', ARGV[5], 'digest', ARGV[6])
redis.call('PUBLISH', ARGV[7], ARGV[3] .. '-' .. ARGV[4])
return {}
"""

# KEYS: head. ARGV: the digest that does not match, the head it stands beside.
_DROP_DAMAGED = """
local there = redis.call('HMGET', KEYS[1], 'digest', 'head')
if (there[1] or '') == ARGV[1] and (there[2] or '') == ARGV[2] then redis.call('UNLINK', KEYS[1]) end
"""

# KEYS: head, blobs. ARGV: the head under which they are removed. Answers 0 when it is another.
_UNLINK_UNDER = """
if redis.call('HMGET', KEYS[1], 'head')[1] ~= ARGV[1] then return 0 end
redis.call('UNLINK', unpack(KEYS, 2))
return 1
"""


class RedisStore:
    """A WeightStore in Redis, shared by any number of processes and threads; connects when it is first used."""

    def __init__(self, url: str, *, password_file: Path | None = None, ca_file: Path | None = None) -> None:
        """Use the Redis at a URL of the forms in redis_client.py. Raises Misconfigured."""
        self._address = parse(url)
        self._files = {"password_file": password_file, "ca_file": ca_file}
        check_files(self._address, **self._files)
        tag = f"{{{self._address.prefix}}}"
        self._blob, self._head, self._channel = f"{tag}:blob:", f"{tag}:head", f"{tag}:moved"
        self._connecting = threading.Lock()
        self._connected: redis.Redis | None = None
        self._mine = threading.local()  # each thread's subscription

    def put(self, blobs: Mapping[str, bytes]) -> None:
        """Store blobs, a batch at a time."""
        with self._as_unavailable():
            for names in _batched(blobs, _BATCH):
                pipeline = self._client.pipeline(transaction=False)
                for name in names:
                    assert blob_name(blobs[name]) == name
                    pipeline.set(self._blob + name, blobs[name])
                pipeline.execute()

    def get(self, names: Sequence[str]) -> list[bytes]:
        """The blobs of these names, checked against them."""
        found: list[bytes] = []
        with self._as_unavailable():
            for batch in _batched(names, _BATCH):
                blobs = cast("list[bytes | None]", self._client.mget([self._blob + name for name in batch]))
                for name, blob in zip(batch, blobs, strict=True):
                    if blob is None:
                        raise BlobMissing(f"the blob {name} is not in the weight store at {self._address}")
                    found.append(check_blob(name, blob))
        return found

    def missing(self, names: Iterable[str]) -> set[str]:
        """Those that have no key."""
        absent: set[str] = set()
        with self._as_unavailable():
            for batch in _batched(names, _NAMES):
                pipeline = self._client.pipeline(transaction=False)
                for name in batch:
                    pipeline.exists(self._blob + name)
                absent.update(name for name, there in zip(batch, pipeline.execute(), strict=True) if not there)
        return absent

    def head(self) -> bytes | None:
        """The head, if it is whole."""
        with self._as_unavailable():
            epoch, revision, head, digest = self._head_fields()
        return head if digest == _head_digest(epoch, revision, head) else None

    def set_head(self, head: bytes, *, epoch: int, revision: int, expected: HeadKey | None) -> None:
        """Replace the head in one script, and tell those who wait."""
        before = ("", "") if expected is None else expected
        with self._as_unavailable():
            if expected is None:
                self._drop_damaged_head()
            digest = _head_digest(str(epoch).encode(), str(revision).encode(), head)
            arguments = [self._head, *before, epoch, revision, head, digest, self._channel]
            there = cast("list[bytes]", self._client.eval(_SET_HEAD, 1, *arguments))
        if there:
            found = "-".join(part.decode() for part in there)
            raise HeadConflict(
                f"the head at {self._address} is {found}, not {expected}: another publisher moved it, or holds a newer epoch"
            )

    def wait(self, seen: HeadKey | None, timeout: float) -> bool:
        """Wait for the channel, and look at the head every second all the same."""
        deadline = time.monotonic() + timeout
        with self._as_unavailable():
            subscription = self._subscription()
            while True:
                key = self._key()
                if key is not None and key != seen:
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                subscription.get_message(ignore_subscribe_messages=True, timeout=min(left, _POLL))

    def names(self) -> Iterator[str]:
        """The names of all blobs."""
        with self._as_unavailable():
            for key in self._client.scan_iter(match=self._blob + "*", count=_NAMES):
                name = key.decode(errors="replace").removeprefix(self._blob)
                if is_name(name):
                    yield name

    def delete(self, names: Iterable[str], *, head: bytes | None = None) -> None:
        """Remove blobs; their memory is given back in the background."""
        with self._as_unavailable():
            for batch in _batched(names, _NAMES):
                keys = [self._blob + name for name in batch]
                if head is None:
                    self._client.unlink(*keys)
                elif not self._client.eval(_UNLINK_UNDER, 1 + len(keys), self._head, *keys, head):
                    raise HeadConflict(f"another publisher moved the head at {self._address}")

    def close(self) -> None:
        """Close every connection."""
        with self._connecting:
            if self._connected is not None:
                self._connected.close()
            self._connected = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _client(self) -> redis.Redis:
        with self._connecting:
            if self._connected is None:
                self._connected = client_for(self._address, **self._files)
            return self._connected

    def _key(self) -> HeadKey | None:
        epoch, revision = cast("list[bytes | None]", self._client.hmget(self._head, ["epoch", "revision"]))
        return (int(epoch), int(revision)) if epoch and revision and epoch.isdigit() and revision.isdigit() else None

    def _head_fields(self) -> list[bytes]:
        """Epoch, revision, head and digest; empty where there is none."""
        fields = cast("list[bytes | None]", self._client.hmget(self._head, ["epoch", "revision", "head", "digest"]))
        return [field or b"" for field in fields]

    def _drop_damaged_head(self) -> None:
        epoch, revision, head, digest = self._head_fields()
        if digest != _head_digest(epoch, revision, head):
            self._client.eval(_DROP_DAMAGED, 1, self._head, digest, head)

    def _subscription(self) -> Any:
        if getattr(self._mine, "subscription", None) is None:
            subscription = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            subscription.subscribe(self._channel)
            self._mine.subscription = subscription
        return self._mine.subscription

    @contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            self._mine.subscription = None
            raise Unavailable(f"the weight store at {self._address} {reason(error)}") from error


def _head_digest(epoch: bytes, revision: bytes, head: bytes) -> bytes:
    return blake3(b"-".join([epoch, revision, head])).hexdigest().encode()


def _batched(names: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(names)
    while batch := list(islice(rest, size)):
        yield batch
