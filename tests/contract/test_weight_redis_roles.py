"""The users that are shipped for Redis: a server loaded with that very file lets each role do its own work and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from liveloop.errors import Unavailable
from liveloop.weights import open_store
from liveloop.weights.mirror import Mirror
from liveloop.weights.store import WeightStore, named
from liveloop.weights.subscriber import Subscriber
from tests.redis_servers import Cluster
from tests.servers import ValkeyServer, wait_until
from tests.weight_samples import KEY, Versions

SHIPPED = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl"
BLOBS = named([b"one", b"two"])
PATIENCE = 30.0
NO_RETRY = Retry(NoBackoff(), 0)


def with_passwords(shipped: str) -> str:
    """The file as its operator completes it: each user's password at the end of the line; here the user's name."""
    return re.sub(r"^user (\w+) on .*$", r"\g<0> >\1", shipped, flags=re.MULTILINE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """Loaded with the shipped file and passwords."""
    users = tmp_path / "users.acl"
    users.write_text(with_passwords(SHIPPED.read_text()))
    server = ValkeyServer(tmp_path / "server", "--aclfile", str(users))
    server.start()
    yield server
    server.kill()


def client(server: ValkeyServer, user: str) -> redis.Redis:
    return redis.Redis(port=server.port, username=user, password=user, decode_responses=True, protocol=2, retry=NO_RETRY)


def store_of(server: ValkeyServer, user: str, *, prefix: str = "liveloop") -> WeightStore:
    return open_store(f"redis://{user}:{user}@127.0.0.1:{server.port}?prefix={prefix}")


def granted(user: str) -> set[str]:
    line = next(line for line in SHIPPED.read_text().splitlines() if line.startswith(f"user {user} "))
    return {rule[1:] for rule in line.split() if rule.startswith("+")}


def used(server: ValkeyServer) -> set[str]:
    """Every command that a client or a script has run since the last call, apart from logging in."""
    with client(server, "admin") as admin:
        counted = {name.removeprefix("cmdstat_") for name, counts in admin.info("commandstats").items() if counts["calls"]}
        admin.config_resetstat()
    return counted - {"auth", "client|setinfo", "info", "config|resetstat"}


def test_as_shipped_nobody_gets_in(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, "--aclfile", str(SHIPPED))
    server.start()
    try:
        for user in ("default", "admin", "learner", "inference"):
            with client(server, user) as anybody, pytest.raises(redis.AuthenticationError):
                anybody.ping()
        with redis.Redis(port=server.port, protocol=2, retry=NO_RETRY) as nobody, pytest.raises(redis.AuthenticationError):
            nobody.ping()
    finally:
        server.kill()


def test_each_role_does_all_of_its_own_work_with_just_the_commands_it_is_granted(server: ValkeyServer, tmp_path: Path) -> None:
    used(server)  # the server has run some of its own
    assert serve_versions(store_of(server, "learner"), store_of(server, "inference"), tmp_path)
    # Not needed here: `client|setinfo` at all, `select` but for another database, the others but in a cluster.
    elsewhere = {"client|setinfo", "select", "command", "cluster|slots", "asking"}
    assert used(server) == granted("learner") - elsewhere
    with store_of(server, "inference") as store:
        read_all(store)
    assert used(server) == granted("inference") - elsewhere


def test_the_roles_do_their_work_in_a_cluster(tmp_path: Path) -> None:
    users = tmp_path / "users.acl"
    users.write_text(with_passwords(SHIPPED.read_text()).replace("user default off", "user default on nopass ~* &* +@all"))
    with Cluster(tmp_path / "cluster", 1, "--aclfile", str(users)) as cluster:
        port = cluster.nodes[0].port
        learner, inference = (open_store(f"redis+cluster://{user}:{user}@127.0.0.1:{port}") for user in ("learner", "inference"))
        assert serve_versions(learner, inference, tmp_path)


def test_the_roles_do_their_work_while_their_slot_migrates(tmp_path: Path) -> None:
    users = tmp_path / "users.acl"
    users.write_text(with_passwords(SHIPPED.read_text()).replace("user default off", "user default on nopass ~* &* +@all"))
    with Cluster(tmp_path / "cluster", 2, "--aclfile", str(users)) as cluster:
        learner, inference = (open_store(cluster.url.replace("//", f"//{user}:{user}@")) for user in ("learner", "inference"))
        with learner, inference:
            learner.put(BLOBS)
            learner.set_head(b"head", epoch=1, revision=1, expected=None)
            source = cluster.owner("{liveloop}:head")
            target = next(node for node in cluster.nodes if node is not source)
            cluster.begin_migration("{liveloop}:head", source=source, target=target)
            assert inference.head() == b"head"
            assert inference.get(list(BLOBS)) == list(BLOBS.values())
            learner.set_head(b"next", epoch=1, revision=2, expected=(1, 1))
            assert inference.head() == b"next"


def test_the_roles_may_use_another_database(server: ValkeyServer) -> None:
    with open_store(f"redis://learner:learner@127.0.0.1:{server.port}/5") as store:
        store.put(BLOBS)
    with open_store(f"redis://inference:inference@127.0.0.1:{server.port}/5") as store:
        assert store.get(list(BLOBS)) == list(BLOBS.values())


def test_inference_can_change_nothing_through_the_store(server: ValkeyServer) -> None:
    with store_of(server, "learner") as learner, store_of(server, "inference") as inference:
        learner.put(BLOBS)
        learner.set_head(b"head", epoch=1, revision=1, expected=None)
        writes: list[Callable[[], None]] = [
            lambda: inference.put(BLOBS),
            lambda: inference.delete(BLOBS),
            lambda: inference.set_head(b"other", epoch=1, revision=2, expected=(1, 1)),
        ]
        for write in writes:
            with pytest.raises(Unavailable, match=r"lets this user not do that: .*no permissions to run"):
                write()
        assert learner.head() == b"head"
        assert set(learner.names()) == set(BLOBS)


def test_inference_may_run_no_command_that_writes_scripts_or_administers(server: ValkeyServer) -> None:
    with client(server, "admin") as admin:
        for command in commands(admin, "write", "scripting", "admin", "dangerous"):
            assert refused(admin, "inference", command), command


def test_the_learner_may_run_no_command_that_administers_and_touch_no_other_key(server: ValkeyServer) -> None:
    with client(server, "admin") as admin, client(server, "learner") as learner:
        for command in [*commands(admin, "admin", "dangerous"), ["keys", "*"], ["flushall"], ["flushdb"], ["config", "get", "*"]]:
            assert refused(admin, "learner", command), command
        admin.set("another", "value")
        learner.set("{liveloop}:blob:x", "value")
        for attempt in (
            lambda: learner.set("another", "x"),
            lambda: learner.unlink("another"),
            lambda: learner.mget("{liveloop}:blob:x", "another"),
            lambda: learner.hset("{liveloop}other", "field", "x"),
            lambda: learner.eval("return redis.call('SET', 'another', 'x')", 0),
            lambda: learner.publish("another", "x"),
            lambda: subscribe(learner, "another"),
        ):
            with pytest.raises(redis.ResponseError, match=r"(?i)permission"):
                attempt()
        assert admin.get("another") == "value"
    with store_of(server, "learner", prefix="other") as store, pytest.raises(Unavailable, match="lets this user not do that"):
        store.put(BLOBS)


def serve_versions(learner: WeightStore, inference: WeightStore, folder: Path) -> bool:
    """A learner mirrors, collects and mends; a pod starts, waits, follows and ends with the published bits."""
    source = open_store((folder / "weights").as_uri())
    versions = Versions(source)
    with learner, inference:
        thread = Mirror(source, learner)
        thread.start()
        wait_until(lambda: learner.head() is not None)
        pod = Subscriber(inference, KEY.public_key())
        pod.start()
        versions.publish()
        thread.notify()
        while pod.version < 2:
            pod.next(PATIENCE)
        learner.put(BLOBS)
        wait_until(lambda: thread.failure is None)
        learner.delete(set(learner.names()) & set(BLOBS))
        thread.close(PATIENCE)
        assert thread.failure is None
        assert learner.missing(source.names()) == set()
    return np.array_equal(pod.state.bits, versions.bits[2])


def read_all(store: WeightStore) -> None:
    """What a pod asks of a store that has a version."""
    pod = Subscriber(store, KEY.public_key())
    pod.start()
    assert pod.next(0.0) is None


def commands(admin: redis.Redis, *categories: str) -> list[list[str]]:
    """Every command of these categories, with as many arguments as it takes at the least."""
    names = {name for category in categories for name in admin.acl_cat(category)}
    found = {name: known["arity"] for name, known in admin.execute_command("COMMAND", "INFO", *names).items()}
    assert names == found.keys()
    return [[*name.split("|"), *["x"] * (abs(arity) - 1 - name.count("|"))] for name, arity in found.items()]


def subscribe(client: redis.Redis, channel: str) -> None:
    """Subscribe, and wait for the answer."""
    with client.pubsub() as subscription:
        subscription.subscribe(channel)
        subscription.parse_response()


def refused(admin: redis.Redis, user: str, command: list[str]) -> bool:
    return "no permissions to run" in str(admin.acl_dryrun(user, *command))
