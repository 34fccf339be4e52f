"""Weights in motion: one flat buffer, sparse patches, signed records. Knows bytes and versions; knows no model, task or service.

layout.py       where every tensor lies in the flat state, and the digest of that table
state.py        FlatState: the bf16 bit patterns and the digests of their 1 MiB chunks
patch.py        the codec: which bit patterns changed, and by how much, chunk by chunk
manifest.py     signatures, and the two signed records: a version's manifest and the head
records.py      Records: manifests and keyframes of a store, and which blobs a version needs
head.py         HeadRecord: the head as its one writer keeps it
staging.py      Staged: what would change if new bits were published
publisher.py    Publisher: makes versions
keyframes.py    Keyframe: a whole version, as blobs
channels.py     the two channels of a canary, and whose answers come from which
subscriber.py   Subscriber: follows the head and keeps a state equal to each version it has pods serve
versioned.py    VersionedState: a flat state that is one version, and how it becomes another
route.py        how a pod gets from its version to another: a chain of patches or a keyframe
mirror.py       Mirror: keeps one store like another
transfer.py     blobs moved a batch at a time, the next while the last is used
store.py        WeightStore: the port
directory.py    DirectoryStore: the embedded adapter
redis.py        RedisStore: the distributed adapter
redis_client.py where Redis is and how to get in: URL, password, TLS, Sentinel, Cluster
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from liveloop.errors import Misconfigured
from liveloop.weights.store import WeightStore


def open_store(url: str, *, password_file: Path | None = None, ca_file: Path | None = None) -> WeightStore:
    """The store at `file:///FOLDER`, or in Redis at a URL of the forms in redis_client.py; connects when it is first used.

    The files hold the password of Redis and the certificate authority of its TLS, where the URL and the system's do not.

    Raises:
        Misconfigured: the URL is of no known kind, or a file cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path not in ("", "/") and not parts.netloc:
        from liveloop.weights.directory import DirectoryStore

        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme.startswith("redis") and parts.netloc:
        try:
            from liveloop.weights.redis import RedisStore  # an extra, absent where the embedded store is enough
        except ModuleNotFoundError as error:
            raise Misconfigured("a redis:// weight store needs redis-py: install liveloop[redis]") from error

        return RedisStore(url, password_file=password_file, ca_file=ca_file)
    raise Misconfigured(f"the weight store's URL is neither file:///FOLDER nor redis://HOST:PORT (its scheme is {parts.scheme!r})")
