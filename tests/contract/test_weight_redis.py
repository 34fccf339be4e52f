"""Redis as it is run in earnest: users, TLS, Sentinel, Cluster, and what goes wrong with a server. Every server is a real one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import redis

from liveloop.errors import Misconfigured, Unavailable
from liveloop.weights import open_store
from liveloop.weights.mirror import Copier
from liveloop.weights.redis_client import parse
from liveloop.weights.store import BLOB_LIMIT, WeightStore, named
from liveloop.weights.subscriber import Subscriber
from tests.certificates import Authority
from tests.redis_servers import Cluster, SentinelServer, TlsProxy, Watched
from tests.servers import ValkeyServer, free_port, wait_until
from tests.weight_samples import KEY, Versions

BLOBS = named([b"", b"\x00\xff\r\n", bytes(BLOB_LIMIT)])
PASSWORD = "wi:th/odd@signs%"
PATIENCE = 30.0


def fresh() -> str:
    """A query that names a key prefix of its own."""
    return f"?prefix=test-{uuid.uuid4().hex}"


def use(store: WeightStore) -> None:
    """All that a learner and its pods ask of a store, which was empty."""
    store.put(BLOBS)
    assert store.get(list(BLOBS)) == list(BLOBS.values())
    assert store.missing(BLOBS) == set()
    store.set_head(b"head", epoch=1, revision=1, expected=None)
    assert store.head() == b"head"
    assert store.wait(None, PATIENCE)
    assert not store.wait((1, 1), 0.0)
    store.delete(list(BLOBS)[1:])
    assert list(store.names()) == list(BLOBS)[:1]


@contextmanager
def running(*servers: ValkeyServer) -> Iterator[None]:
    with ExitStack() as started:
        for server in servers:
            started.callback(server.kill)
            server.start()
        yield


def refusal(store: WeightStore) -> str:
    with store, pytest.raises(Unavailable) as refused:
        store.head()
    return refused.value.reason


def recovers(store: WeightStore) -> bool:
    try:
        store.head()
    except Unavailable:
        return False
    return True


# The URL


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host?db=1",
        "redis://host?prefix=a*",
        "redis://host?prefix=",
        "redis://host:port",
        "redis://host/name",
        "redis://host/0/1",
        "redis://one:1,other:2",
        "redis://host#fragment",
        "redis://pass word@ho st",
        "redis+sentinel://host:1",
        "redis+sentinel:///service",
        "redis+cluster://host:1/2",
        "redis+cluster://host:1,",
        "redis+other://host:1",
        "redisx://host:1",
    ],
)
def test_a_url_of_another_form_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(Misconfigured):
        open_store(url)


def test_a_url_says_where_who_and_under_which_name() -> None:
    found = parse("rediss+sentinel://us%40er:p%2Fw@one,[::1]:7000/the%20service?prefix=name")
    assert (found.kind, found.tls, found.hosts) == ("sentinel", True, (("one", 26379), ("::1", 7000)))
    assert (found.user, found.password, found.path, found.prefix) == ("us@er", "p/w", "the service", "name")
    assert "p/w" not in f"{found} {found!r}"
    assert parse("redis://host").hosts == (("host", 6379),)


@pytest.mark.parametrize(
    "url", ["redis://:secret@host:port", "redis://:secret@host/x", "redis://:secret@host?secret=1", "redis+x://:secret@h"]
)
def test_a_refused_url_is_not_repeated(url: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        open_store(url)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_files_that_cannot_be_used_are_refused_in_a_sentence(tmp_path: Path) -> None:
    password, two_lines, absent = tmp_path / "password", tmp_path / "lines", tmp_path / "absent"
    password.write_text("secret\n")
    two_lines.write_text("one\ntwo\n")
    with pytest.raises(Misconfigured, match=r"absent cannot be read \(No such file"):
        open_store("redis://host", password_file=absent)
    with pytest.raises(Misconfigured, match="not one line"):
        open_store("redis://host", password_file=two_lines)
    with pytest.raises(Misconfigured, match="both in the weight store's URL and in a file"):
        open_store("redis://:secret@host", password_file=password)
    with pytest.raises(Misconfigured, match="does not ask for TLS"):
        open_store("redis://host", ca_file=password)
    with pytest.raises(Misconfigured, match="no certificate"):
        open_store("rediss://host", ca_file=password)
    with pytest.raises(Misconfigured, match="absent cannot be read"):
        open_store("rediss://host", ca_file=absent)


# Passwords and TLS


def test_a_password_is_taken_from_its_file_and_read_again_when_it_changes(tmp_path: Path) -> None:
    server, file = ValkeyServer(tmp_path / "server", "--requirepass", PASSWORD), tmp_path / "password"
    file.write_text("wrong\n")
    with running(server), open_store(server.url, password_file=file) as store:
        with pytest.raises(Unavailable, match="does not accept the user or the password"):
            store.head()
        file.write_text(PASSWORD + "\n")
        use(store)
        assert "does not accept" in refusal(open_store(server.url))


@pytest.mark.parametrize("lose", [Path.unlink, lambda file: file.write_text(""), lambda file: file.write_bytes(b"\xff\n")])
def test_with_a_password_file_that_cannot_be_used_a_store_is_unavailable_meanwhile(tmp_path: Path, lose: Callable[[Path], object]) -> None:
    server, file = ValkeyServer(tmp_path / "server", "--requirepass", PASSWORD), tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    with running(server), open_store(server.url, password_file=file) as store:
        lose(file)
        for _ in range(2):
            with pytest.raises(Unavailable, match="the password file is not one line of text that can be read"):
                store.head()
        file.write_text(PASSWORD + "\n")
        use(store)


def test_a_password_in_the_url_may_hold_any_character(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, "--requirepass", PASSWORD)
    with running(server), open_store(f"redis://default:wi%3Ath%2Fodd%40signs%25@127.0.0.1:{server.port}/3") as store:
        use(store)


def test_tls_trusts_the_given_authority_and_no_other(tmp_path: Path, redis_url: str) -> None:
    trusted, other = Authority(tmp_path / "trusted"), Authority(tmp_path / "other")
    target = parse(redis_url).hosts[0][1]
    with TlsProxy(trusted.context("127.0.0.1"), target) as right, TlsProxy(trusted.context("127.0.0.2"), target) as elsewhere:
        url = f"rediss://127.0.0.1:{right.port}{fresh()}"
        with open_store(url, ca_file=trusted.file) as store:
            use(store)
        assert "cannot be trusted: unable to get local issuer certificate" in refusal(open_store(url))
        assert "cannot be trusted: " in refusal(open_store(url, ca_file=other.file))
        misnamed = open_store(f"rediss://127.0.0.1:{elsewhere.port}", ca_file=trusted.file)
        assert "cannot be trusted: IP address mismatch" in refusal(misnamed)


def test_tls_is_spoken_to_the_sentinels_and_to_the_master_they_name(tmp_path: Path) -> None:
    authority, master = Authority(tmp_path / "authority"), ValkeyServer(tmp_path / "master")
    with running(master), TlsProxy(authority.context("127.0.0.1"), master.port) as before_master:
        sentinel = SentinelServer(tmp_path / "sentinel", before_master.port)
        with running(sentinel), TlsProxy(authority.context("127.0.0.1"), sentinel.port) as before_sentinel:
            with open_store(f"rediss+sentinel://127.0.0.1:{before_sentinel.port}/weights", ca_file=authority.file) as store:
                use(store)
            assert before_master.greeted


def test_tls_is_spoken_to_every_node_of_a_cluster(tmp_path: Path) -> None:
    authority, port = Authority(tmp_path / "authority"), free_port()
    with (
        Cluster(tmp_path / "cluster", 1, "--cluster-announce-port", str(port)) as cluster,
        TlsProxy(authority.context("127.0.0.1"), cluster.nodes[0].port, port=port),
        open_store(f"rediss+cluster://127.0.0.1:{port}", ca_file=authority.file) as store,
    ):
        use(store)


# Sentinel and Cluster


def test_sentinels_may_ask_for_the_password_too_and_the_store_follows_the_new_master(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("pa55")
    with Watched(tmp_path / "servers", password="pa55") as watched, open_store(watched.url, password_file=file) as store:
        use(store)
        watched.master.kill()
        with pytest.raises(Unavailable):
            store.head()
        wait_until(lambda: recovers(store))
        store.put(BLOBS)
        assert store.get(list(BLOBS)) == list(BLOBS.values())


def test_a_pod_follows_a_learner_through_a_failover_that_lost_everything(tmp_path: Path) -> None:
    with Watched(tmp_path / "servers") as watched, open_store(watched.url) as learner, open_store(watched.url) as pods:
        source = open_store((tmp_path / "weights").as_uri())
        versions = Versions(source)
        assert mirrored(source, learner)
        pod = Subscriber(pods, KEY.public_key())
        pod.start()
        with redis.Redis(port=watched.replica.port) as replica:
            replica.replicaof("NO", "ONE")
            replica.flushall()
        versions.publish()
        wait_until(lambda: mirrored(source, learner))
        wait_until(lambda: advanced(pod) == 2)
        assert np.array_equal(pod.state.bits, versions.bits[2])


def test_an_unknown_service_has_no_master(watched: Watched) -> None:
    assert "no master that a Sentinel names" in refusal(open_store(watched.url.replace("/weights", "/others")))


def test_a_cluster_is_followed_when_the_slot_moves_to_another_node(cluster: Cluster) -> None:
    query = fresh()
    with open_store(cluster.url + query) as store:
        assert store.head() is None
        assert not store.wait(None, 0.0)  # it has subscribed
        key = f"{{{query.partition('=')[2]}}}:head"
        source = cluster.owner(key)
        target = next(node for node in cluster.nodes if node is not source)
        cluster.move_slot(key, source=source, target=target)
        use(store)
        with cluster.client(target) as client:
            assert client.exists(key)


def test_a_cluster_whose_node_comes_back_is_used_again(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster, open_store(cluster.url) as store:
        use(store)
        node = cluster.nodes[0]
        node.kill()
        with pytest.raises(Unavailable, match="no cluster of which a node"):
            store.head()
        node.start()
        wait_until(lambda: recovers(store))
        assert store.head() is None
        store.put(BLOBS)


def test_a_server_that_is_no_cluster_is_said_to_be_none(redis_url: str) -> None:
    assert "no cluster" in refusal(open_store(redis_url.replace("redis://", "redis+cluster://").removesuffix("/0")))


# Trouble


def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    with open_store(f"redis://:secret@127.0.0.1:{free_port()}") as store:
        for call in (store.head, lambda: store.get(list(BLOBS)), lambda: store.put(BLOBS), lambda: store.wait(None, 1.0), store.names):
            with pytest.raises(Unavailable) as refused:
                list(call() or ())  # type: ignore[call-overload]
            assert "secret" not in refused.value.reason


def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        with open_store(server.url) as store:
            store.set_head(b"head", epoch=1, revision=1, expected=None)
            assert not store.wait((1, 1), 0.0)
            server.kill()
            with pytest.raises(Unavailable):
                store.wait((1, 1), 5.0)
            server.start()
            assert store.head() is None
            store.set_head(b"head", epoch=1, revision=1, expected=None)
            assert store.wait(None, 5.0)
    finally:
        server.kill()


def test_a_server_that_hangs_is_unavailable_in_bounded_time(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        with open_store(server.url) as store:
            assert store.head() is None
            server.pause()
            with pytest.raises(Unavailable):
                store.head()
            server.resume()
            wait_until(lambda: store.head() is None)
    finally:
        server.kill()


def test_a_full_server_takes_nothing_more_and_gives_what_it_has(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, "--maxmemory", "6mb", "--maxmemory-policy", "noeviction")
    blobs = named(bytes([number]) * BLOB_LIMIT for number in range(12))
    with running(server), open_store(server.url) as store, redis.Redis(port=server.port) as operator:
        store.set_head(b"head", epoch=1, revision=1, expected=None)
        with pytest.raises(Unavailable, match="is full: give it more memory"):
            store.put(blobs)
        operator.config_set("maxmemory", "1mb")
        with pytest.raises(Unavailable, match="is full"):
            store.set_head(b"next", epoch=1, revision=2, expected=(1, 1))
        there = set(store.names())
        assert 0 < len(there) < len(blobs)
        assert store.missing(blobs) == set(blobs) - there
        assert store.get(sorted(there)) == [blobs[name] for name in sorted(there)]
        assert store.head() == b"head"
        store.delete(there)
        operator.config_set("maxmemory", "6mb")
        store.set_head(b"next", epoch=1, revision=2, expected=(1, 1))


def test_a_replica_is_not_taken_for_its_master(watched: Watched) -> None:
    with open_store(f"{watched.replica.url}{fresh()}") as store:
        with pytest.raises(Unavailable, match="is a replica"):
            store.put(BLOBS)
        with pytest.raises(Unavailable, match="is a replica"):
            store.set_head(b"head", epoch=1, revision=1, expected=None)


def mirrored(source: WeightStore, target: WeightStore) -> bool:
    blob = source.head()
    assert blob is not None
    try:
        Copier(source, target).copy(blob)
    except Unavailable:
        return False
    return True


def advanced(pod: Subscriber) -> int:
    with suppress(Unavailable):
        pod.next(0.2)
    return pod.version
