"""Redis as it is run in earnest, for the tests: behind Sentinels, as a cluster, behind TLS. Knows no test."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import redis

from tests.servers import ValkeyServer, free_port, valkey, wait_until

_SLOTS = 16_384
_TLS_HANDSHAKE = b"\x16"
_SOON = ("--repl-diskless-sync-delay", "0")


class SentinelServer(ValkeyServer):
    """A Sentinel that watches one master and takes it for dead after half a second."""

    def __init__(self, folder: Path, master: int, *lines: str) -> None:
        super().__init__(folder)
        watched = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"sentinel monitor weights 127.0.0.1 {master} 1",
            "sentinel down-after-milliseconds weights 500",
            "sentinel failover-timeout weights 3000",
            *lines,
        ]
        self._file = folder / "sentinel.conf"
        self._file.write_text("\n".join(watched) + "\n")

    def command(self) -> list[str]:
        """What runs."""
        return [valkey(), str(self._file), "--sentinel"]


class Watched:
    """A master, its replica and a Sentinel; `password` is what all three ask for."""

    def __init__(self, folder: Path, *, password: str = "") -> None:
        secret = ["--requirepass", password, "--masterauth", password] if password else []
        self.password = password
        self.master = ValkeyServer(folder / "master", *_SOON, *secret)
        self.replica = ValkeyServer(folder / "replica", *_SOON, *secret, "--replicaof", "127.0.0.1", str(self.master.port))
        lines = [f"sentinel auth-pass weights {password}", f"requirepass {password}"] if password else []
        self.sentinel = SentinelServer(folder / "sentinel", self.master.port, *lines)

    @property
    def url(self) -> str:
        """The service's address, without the password."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/weights"

    def __enter__(self) -> Self:
        with ExitStack() as started:
            for server in (self.master, self.replica, self.sentinel):
                started.callback(server.kill)
                server.start()
            wait_until(self._linked)
            self._stack = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _linked(self) -> bool:
        with redis.Redis(port=self.sentinel.port, password=self.password or None, decode_responses=True) as sentinel:
            replicas = sentinel.sentinel_slaves("weights")
        return bool(replicas) and replicas[0]["master-link-status"] == "ok"


class Cluster:
    """Masters that share the slots; a node that comes back finds its place again."""

    def __init__(self, folder: Path, nodes: int = 3, *options: str) -> None:
        self.nodes = [ValkeyServer(folder / str(number), *options, *self._options()) for number in range(nodes)]

    @property
    def url(self) -> str:
        """All nodes."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    def __enter__(self) -> Self:
        with ExitStack() as started:
            for node in self.nodes:
                started.callback(node.kill)
                node.start()
            self._divide()
            self._stack = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def client(self, node: ValkeyServer) -> redis.Redis:
        """A client of one node."""
        return redis.Redis(port=node.port, decode_responses=True)

    def owner(self, key: str) -> ValkeyServer:
        """The node that has a key's slot."""
        with self.client(self.nodes[0]) as client:
            slot = client.execute_command("CLUSTER KEYSLOT", key)
            ports = [master[1] for first, last, master, *_ in _slots(client) if first <= slot <= last]
        return next(node for node in self.nodes if node.port == ports[0])

    def move_slot(self, key: str, *, source: ValkeyServer, target: ValkeyServer) -> None:
        """Give an empty slot to another node."""
        with self.client(source) as one, self.client(target) as other:
            slot, name = one.execute_command("CLUSTER KEYSLOT", key), other.execute_command("CLUSTER MYID")
            for client in (other, one):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", name)
        wait_until(lambda: self.owner(key) is target)

    def begin_migration(self, key: str, *, source: ValkeyServer, target: ValkeyServer) -> None:
        """Move the keys of a slot to another node, and leave the slot itself where it is."""
        with self.client(source) as one, self.client(target) as other:
            slot = one.execute_command("CLUSTER KEYSLOT", key)
            other.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", one.execute_command("CLUSTER MYID"))
            one.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", other.execute_command("CLUSTER MYID"))
            keys = one.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000)
            one.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def _divide(self) -> None:
        share = -(-_SLOTS // len(self.nodes))
        for number, node in enumerate(self.nodes):
            with self.client(node) as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", number * share, min((number + 1) * share, _SLOTS) - 1)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                for other in self.nodes[:number]:
                    client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, other.options[-1])
        wait_until(lambda: all(self._whole(node) for node in self.nodes))

    def _whole(self, node: ValkeyServer) -> bool:
        with self.client(node) as client:
            return client.execute_command("CLUSTER INFO")["cluster_state"] == "ok" and len(_slots(client)) == len(self.nodes)

    @staticmethod
    def _options() -> list[str]:
        return ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(free_port())]


def _slots(client: redis.Redis) -> list[list[Any]]:
    return client.execute_command("CLUSTER SLOTS")  # type: ignore[no-any-return, no-untyped-call]


class TlsProxy:
    """Passes what clients say to a port of this machine: who greets in TLS is answered in TLS, as a Sentinel that speaks none is not."""

    def __init__(self, context: ssl.SSLContext, target: int, *, port: int = 0) -> None:
        self._context, self._target = context, target
        self.port = port or free_port()
        self.greeted = 0  # connections that spoke TLS
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:  # the one that accepts is the first
            thread.join()
        self._listener.close()

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                self._spawn(self._serve, self._listener.accept()[0])

    def _serve(self, accepted: socket.socket) -> None:
        with accepted, socket.create_connection(("127.0.0.1", self._target)) as plain:
            try:
                if accepted.recv(1, socket.MSG_PEEK) != _TLS_HANDSHAKE:
                    self._pass_on(accepted, plain)
                    return
                with self._context.wrap_socket(accepted, server_side=True) as secret:
                    self.greeted += 1
                    self._pass_on(secret, plain)
            except OSError:
                return  # a client that trusts another authority hangs up

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while not self._stopping.is_set():
            waiting = isinstance(client, ssl.SSLSocket) and client.pending()
            ready = [client] if waiting else select.select([client, server], [], [], 0.05)[0]
            for one, other in ((client, server), (server, client)):
                if one in ready:
                    content = one.recv(65_536)
                    if not content:
                        return
                    other.sendall(content)
