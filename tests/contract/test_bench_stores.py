"""The benchmarks measure over a Redis that asks for a password, and over a cluster, and leave nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from liveloop.settings import load_settings
from liveloop.weights import open_store
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from services.commands.bench.full_push import CHUNK, full_push
from services.commands.bench.replay import own_corner, replaying, stage_all
from tests.redis_servers import Cluster
from tests.servers import ValkeyServer, wait_until
from tests.weight_samples import KEY, bundle, finite_bits, step

CONTENT = bytes(CHUNK + 1)


PASSWORD = "a secret"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path / "server", "--requirepass", PASSWORD)
    server.start()
    yield server
    server.kill()


def test_a_full_push_goes_through_a_cluster_and_leaves_nothing(cluster: Cluster) -> None:
    with full_push(own_corner(cluster.url), CONTENT, readers=1) as push:
        assert min(push.whole(1), push.in_chunks(1)) > 0
    for node in cluster.nodes:
        with cluster.client(node) as client:
            assert not client.keys("*push*")


def test_the_password_file_lets_benchmarks_in(server: ValkeyServer, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    settings = load_settings(data=tmp_path / "data", weights_url=own_corner(server.url), redis_password_file=file)
    with full_push(settings.weights_url, CONTENT, readers=1, password_file=file) as push:
        assert push.whole(1) > 0
    bits = [finite_bits(), step(finite_bits(), 2)]
    Publisher.first(DirectoryStore(settings.data / "weights"), KEY, bundle(), bits[0]).close()
    with (
        replaying(settings, KEY, stage_all(bits, bundle().layout)) as replay,
        open_store(settings.weights_url, password_file=file) as store,
    ):
        wait_until(lambda: store.head() is not None)
        before = store.head()
        replay.publish()
        wait_until(lambda: store.head() != before)
    with redis.Redis(port=server.port, password=PASSWORD) as client:
        assert [key for key in client.scan_iter() if not key.endswith(b":head")] == []
