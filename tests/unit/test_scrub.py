"""The scrub: what memory lost is found wherever it was, and every value that is served is again the published one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from liveloop.errors import BlobMissing
from liveloop.v1.weights_pb2 import Layout
from liveloop.weights.channels import Channel
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from liveloop.weights.subscriber import Subscriber
from services.inference.replica import Replica
from services.inference.scrub import Scrub
from tests.weight_samples import KEY, TOTAL, Versions, bundle

CHUNKS = 3
BOTH = [Channel.CURRENT, Channel.BLESSED]


class FlatTask:
    """A task whose model is its flat buffer."""

    def new_model(self, layout: Layout, flat: torch.Tensor) -> torch.nn.Module:
        assert flat.shape == (layout.total,)
        return torch.nn.ParameterList([torch.nn.Parameter(flat, requires_grad=False)])


@dataclass
class Pod:
    """A pod of two channels: the current version is 2, the blessed one 1."""

    store: DirectoryStore
    versions: Versions
    subscriber: Subscriber
    replica: Replica
    scrub: Scrub

    def mended(self, rounds: int = 1) -> int:
        """How often something was, in so many rounds over all chunks of both channels."""
        found = [update for _ in range(rounds * CHUNKS * len(BOTH)) if (update := self.scrub.step()) and self.serve(update)]
        return len(found)

    def serve(self, update: object) -> bool:
        self.replica.flip(update.version, update.chunks, update.channel)  # type: ignore[attr-defined]
        return True

    def is_exact(self) -> bool:
        for channel, version in ((Channel.CURRENT, 2), (Channel.BLESSED, 1)):
            wide = self.versions.bits[version].astype(np.uint32) << 16
            with self.replica.acquire(channel) as held:
                if held.version != version or not np.array_equal(held.flat.view(np.uint32), wide):
                    return False
            if not np.array_equal(self.subscriber.served[channel].state.bits, self.versions.bits[version]):
                return False
        return True


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    store = DirectoryStore(tmp_path)
    versions = Versions(store)
    versions.publisher = Publisher(store, KEY, epoch=2, canary_share=0.5)
    versions.publish()
    subscriber = Subscriber(store, KEY.public_key())
    subscriber.start()
    replica = Replica(FlatTask(), bundle().layout, subscriber.state.bits, 2)  # type: ignore[arg-type]
    replica.open(Channel.BLESSED, subscriber.served[Channel.BLESSED].state.bits, 1)
    yield Pod(store, versions, subscriber, replica, Scrub(subscriber, replica))
    versions.publisher.close()


def damaged() -> float:
    return REGISTRY.get_sample_value("liveloop_weight_updates_total", {"result": "damaged"}) or 0.0


def test_sound_memory_is_left_alone(pod: Pod) -> None:
    before = damaged()
    assert pod.mended(2) == 0
    assert damaged() == before
    assert pod.is_exact()


@pytest.mark.parametrize("channel", BOTH)
@pytest.mark.parametrize("position", [0, TOTAL // 2, TOTAL - 1])
def test_a_state_that_was_damaged_anywhere_is_fetched_again_within_one_round(pod: Pod, channel: Channel, position: int) -> None:
    before = damaged()
    bits = pod.subscriber.served[channel].state.bits
    bits[position] ^= 1
    pod.replica.flip(pod.replica.versions[channel], None, channel)  # what is served has taken the damage over
    assert pod.mended() == 1
    assert damaged() == before + 1
    assert pod.is_exact()
    assert pod.mended() == 0


@pytest.mark.parametrize("channel", BOTH)
def test_a_served_set_that_was_damaged_anywhere_is_written_again_within_one_round(pod: Pod, channel: Channel) -> None:
    with pod.replica.acquire(channel) as held:
        held.flat[[0, TOTAL // 2, TOTAL - 1]] += 1.0
    assert pod.mended() == 1
    assert pod.is_exact()


def test_damage_that_cannot_be_fetched_again_is_logged_once_and_found_until_it_can(pod: Pod) -> None:
    digest = pod.subscriber.state.chunk_digests[:32].hex()
    chunk = pod.store.get([digest])
    pod.store.delete([digest])
    pod.subscriber.state.bits[3] ^= 1
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(BlobMissing):
                pod.mended()
    assert [entry["chunk"] for entry in logs if entry["log_level"] == "error"] == [0]
    pod.store.put({digest: chunk[0]})
    assert pod.mended() == 1
    assert pod.is_exact()


def test_a_version_that_is_not_served_yet_is_not_taken_for_damage(pod: Pod) -> None:
    pod.versions.publish()
    update = pod.subscriber.next(30.0)
    assert update is not None
    assert pod.mended() == 0
    pod.serve(update)
    assert pod.mended() == 0
