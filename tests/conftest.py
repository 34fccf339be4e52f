"""What all tests share: a real broker and a real server, started once. A missing one is a failure, not a skip."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.kafka_servers import KafkaServer
from tests.servers import ValkeyServer

# A shell that runs the tests in the background has its children ignore Ctrl-C, and theirs after them; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("default", deadline=None)  # no test asserts a time
settings.register_profile("nightly", deadline=None, max_examples=2000)
settings.load_profile("default")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a Kafka for this session; each test takes a topic of its own."""
    if elsewhere := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield elsewhere
        return
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server.bootstrap
    server.kill()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis-compatible server for this session; each test takes a key prefix of its own."""
    if elsewhere := os.environ.get("REDIS_URL"):
        yield elsewhere
        return
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.url
    server.kill()
