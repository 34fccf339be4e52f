"""Publishes recorded versions again and again, as a learner would. Knows the publisher and the mirror; trains nothing.

Forwards to the last recorded version, then backwards to the first, and so on: every step changes what a real step changed. All patches
are made beforehand, so that what is measured is publishing.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from liveloop.settings import Settings
from liveloop.v1.weights_pb2 import Layout
from liveloop.weights import open_store
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.mirror import Mirror
from liveloop.weights.patch import Bits
from liveloop.weights.publisher import Publisher
from liveloop.weights.staging import Staged, stage
from liveloop.weights.state import FlatState


@dataclass(frozen=True, slots=True)
class Patches:
    """What leads from each recorded version to the next, and back."""

    forwards: list[Staged]
    backwards: list[Staged]

    def endlessly(self) -> Iterator[Staged]:
        """One after the other, from the first version on."""
        return itertools.cycle([*self.forwards, *reversed(self.backwards)])


def stage_all(versions: Sequence[Bits], layout: Layout) -> Patches:
    """All patches between neighbours of `versions`, [layout.total] each."""
    states = [FlatState(bits.copy()) for bits in versions]
    pairs = list(itertools.pairwise(states))
    return Patches(
        [stage(old, new.bits, layout) for old, new in pairs],
        [stage(new, old.bits, layout) for old, new in pairs],
    )


class Replay:
    """A publisher of recorded versions into the learner's folder, and where the settings name a store, into that too."""

    def __init__(self, settings: Settings, key: Ed25519PrivateKey, patches: Patches) -> None:
        """The folder holds the version that the patches start from."""
        url, files = settings.weights_url, {"password_file": settings.redis_password_file, "ca_file": settings.redis_ca_file}
        self._patches = patches.endlessly()
        self._store = DirectoryStore(settings.data / "weights")
        self._publisher = Publisher(self._store, key, epoch=1)
        self._target = open_store(url, **files) if url else None
        self._mirror = Mirror(self._store, self._target) if self._target else None
        self.versions = [self._publisher.head.current]
        """Every version that pods may serve."""

    def start(self) -> None:
        """Copy what is there already."""
        if self._mirror:
            self._mirror.start()

    def publish(self) -> tuple[int, float]:
        """Publish the next one: its number, and when that began (seconds, monotonic)."""
        staged, version = next(self._patches), self.versions[-1] + 1
        self.versions.append(version)
        began = time.monotonic()
        now = time.time()
        self._publisher.publish(staged, version=version, step=version, included=[now], created_at=now)
        if self._mirror:
            self._mirror.notify()
        return version, began

    def close(self) -> None:
        """Stop mirroring, and remove what was mirrored."""
        if self._mirror and self._target:
            self._mirror.close(10.0)
            self._target.delete(list(self._target.names()))
            self._target.close()
        self._publisher.close()


@contextmanager
def replaying(settings: Settings, key: Ed25519PrivateKey, patches: Patches) -> Iterator[Replay]:
    """A started replay, closed at the end."""
    replay = Replay(settings, key, patches)
    try:
        replay.start()
        yield replay
    finally:
        replay.close()


def own_corner(url: str) -> str:
    """A prefix of its own in the Redis at `url`: nothing that is there already is touched."""
    return urlunsplit(urlsplit(url)._replace(query=f"prefix=bench-{uuid.uuid4().hex[:12]}"))
