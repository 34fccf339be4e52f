"""A model of another layout: refused by pods that serve the old one, and rolled out beside it under a prefix of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from liveloop.errors import WrongLayout
from liveloop.v1.weights_pb2 import ModelBundle
from liveloop.weights import open_store
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.mirror import Copier
from liveloop.weights.patch import Bits
from liveloop.weights.publisher import Publisher
from liveloop.weights.store import WeightStore
from liveloop.weights.subscriber import Subscriber
from tests.weight_samples import FROZEN, KEY, TOTAL, bundle, finite_bits, step

PATIENCE = 30.0
OTHERS = {"another scope": bundle(frozen=FROZEN + 500), "more labels": bundle(TOTAL + 9), "another model": bundle(model="other")}


class Learner:
    """One learner's truth and its copy in the store that pods follow."""

    def __init__(self, folder: Path, target: WeightStore, model: ModelBundle, *, epoch: int = 1, take_over: bool = False) -> None:
        self.source = DirectoryStore(folder)
        Publisher.first(self.source, KEY, model, finite_bits(seed=1, total=model.layout.total)).close()
        self.publisher = Publisher(self.source, KEY, epoch=epoch)
        self.copier = Copier(self.source, target, take_over=take_over)
        self.copy()

    @property
    def bits(self) -> Bits:
        return self.publisher.state.bits

    def copy(self) -> None:
        head = self.source.head()
        assert head is not None
        self.copier.copy(head)

    def publish(self) -> int:
        version = self.publisher.head.current + 1
        staged = self.publisher.stage(step(self.bits, version, frozen=self.publisher.layout.frozen))
        self.publisher.publish(staged, version=version, step=version, included=[], created_at=1e9)
        self.copy()
        return version


@pytest.fixture
def stores(redis_url: str) -> Iterator[tuple[WeightStore, WeightStore]]:
    """Two prefixes in one Redis."""
    with ExitStack() as opened:
        old, new = (opened.enter_context(open_store(f"{redis_url}?prefix=test-{uuid.uuid4().hex}")) for _ in range(2))
        yield old, new


def new_pod(store: WeightStore) -> Subscriber:
    pod = Subscriber(store, KEY.public_key())
    pod.start()
    return pod


@pytest.mark.parametrize("change", OTHERS)
def test_pods_refuse_another_layout_and_serve_on_while_a_new_pod_takes_it(
    tmp_path: Path, stores: tuple[WeightStore, WeightStore], change: str
) -> None:
    old = Learner(tmp_path / "old", stores[0], bundle())
    pod = new_pod(stores[0])
    new = Learner(tmp_path / "new", stores[0], OTHERS[change], epoch=2, take_over=True)
    for _ in range(2):
        with pytest.raises(WrongLayout, match="another model, or another layout of it, than this pod serves"):
            pod.next(PATIENCE)
    assert np.array_equal(pod.state.bits, old.bits)
    assert pod.version == 1
    assert np.array_equal(new_pod(stores[0]).state.bits, new.bits)


@pytest.mark.parametrize("change", OTHERS)
def test_two_layouts_are_served_side_by_side_each_under_its_prefix(
    tmp_path: Path, stores: tuple[WeightStore, WeightStore], change: str
) -> None:
    old, new = Learner(tmp_path / "old", stores[0], bundle()), Learner(tmp_path / "new", stores[1], OTHERS[change])
    old_pod, new_pod_ = new_pod(stores[0]), new_pod(stores[1])
    for _ in range(3):
        for learner, pod in ((old, old_pod), (new, new_pod_)):
            version = learner.publish()
            pod.next(PATIENCE)
            assert pod.version == version
            assert np.array_equal(pod.state.bits, learner.bits)
    assert old_pod.bundle == bundle()
    assert new_pod_.bundle == OTHERS[change]
