"""Who is forgotten leaves Redis too: a learner that mirrors its weights rebuilds them, and a pod that follows Redis comes along."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from liveloop.weights import mirror as mirroring
from liveloop.weights import open_store
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.head import read_head
from liveloop.weights.mirror import Mirror
from liveloop.weights.store import WeightStore
from liveloop.weights.subscriber import Subscriber
from tests.servers import wait_until
from tests.unit.test_forget import Users, ids_of, twin

PATIENCE = 30.0


class Mirrored(Users):
    """A learner whose weights are copied to Redis."""

    def __init__(self, folder: Path, target: WeightStore) -> None:
        self.target = target
        self.source = DirectoryStore(folder / "weights")
        super().__init__(folder)

    def mirror(self) -> Mirror:
        self.copying = Mirror(self.source, self.target)
        self.copying.start()
        return self.copying

    def is_mirrored(self) -> bool:
        return self.target.head() == self.source.head() and set(self.target.names()) == set(self.source.names())

    def end(self) -> None:
        self.copying.close(PATIENCE)
        super().end()


@pytest.fixture
def users(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirrored]:
    monkeypatch.setattr(mirroring, "_CHECK", 0.1)
    with open_store(f"{redis_url}?prefix=test-{uuid.uuid4().hex}") as target:
        found = Mirrored(tmp_path, target)
        found.turn_until(found.is_quiet)
        yield found
        found.end()


def follow(pod: Subscriber, version: int) -> None:
    while pod.version < version:
        assert pod.next(PATIENCE) is not None


def test_replaced_blobs_leave_redis_and_a_pod_follows_to_the_rebuilt_version(users: Mirrored):
    before = users.learn_from("bob")
    served = users.learn_from("ann", "cy")
    expected, journal = twin(users, ids_of(users, "ann")), users.parts.journal
    wait_until(users.is_mirrored)
    pod = Subscriber(users.target, users.key.public_key())
    pod.start()
    held, old = set(users.target.names()), pod.state.bits.copy()
    replaced = {journal.manifest(version) for version in range(before + 1, served + 1)}
    assert pod.version == served and replaced <= held

    done = users.forget("ann", rebuild=True)
    follow(pod, done.rebuilt)
    assert np.array_equal(pod.state.bits, expected) and not np.array_equal(old, expected)

    users.turn_until(lambda: not users.publisher.keeps(served))
    wait_until(users.is_mirrored)
    head = read_head(users.target, users.key.public_key())
    assert (head.current, head.blessed) == (done.rebuilt, done.rebuilt)
    left = set(users.target.names())
    assert not replaced & left and journal.manifest(before) in left
    again = Subscriber(users.target, users.key.public_key())
    again.start()
    assert np.array_equal(again.state.bits, expected)
