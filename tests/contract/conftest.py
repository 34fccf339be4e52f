"""Redis behind a Sentinel and as a cluster, each started once: a test takes a key prefix of its own and leaves the servers running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis_servers import Cluster, Watched


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("watched")) as servers:
        yield servers


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers
