"""A real Kafka: one broker, with listeners for every way to get in, or a cluster of them. Knows no test."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from tests.servers import Server, free_port, wait_until

_ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = _ROOT / ".cache" / "kafka" / "libs"
_CLUSTER = "bGl2ZWxvb3AtdGVzdHMtMQ"  # any 16 bytes in base64


@dataclass(frozen=True, slots=True)
class Listener:
    """One more way into a broker."""

    name: str
    protocol: str  # PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL
    port: int
    advertised: int  # where clients are sent; another port when something stands in between


class KafkaServer(Server):
    """One broker that is its own controller, or one `node` of several. Needs Java 17 and, the first time, Maven.

    `listeners` are there beside the plain one, `lines` are added to its properties.
    """

    def __init__(
        self, folder: Path, *lines: str, listeners: Sequence[Listener] = (), node: int = 1, controllers: Sequence[int] = ()
    ) -> None:
        super().__init__(folder)
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._properties = folder / "server.properties"
        plain = Listener("PLAINTEXT", "PLAINTEXT", self.port, self.port)
        properties = _broker_properties(folder, [plain, *listeners], node, list(controllers) or [free_port()])
        self._properties.write_text("\n".join([properties, *lines, ""]))
        format_storage = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(self._properties)]
        subprocess.run([*_java(), *format_storage], check=True, capture_output=True)

    def command(self) -> list[str]:
        """What runs."""
        return [*_java(), "kafka.Kafka", str(self._properties)]

    def answers(self) -> bool:
        """The broker tells its metadata."""
        if not self.listens():
            return False
        try:
            KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=2000).close()
        except KafkaError:
            return False
        return True


class KafkaCluster:
    """Three brokers; a topic is on all of them, and two must have a record before it is acknowledged."""

    def __init__(self, folder: Path) -> None:
        controllers = [free_port() for _ in range(3)]
        lines = ["default.replication.factor=3", "min.insync.replicas=2"]
        self.brokers = [
            KafkaServer(folder / str(node), *lines, node=node, controllers=controllers) for node in range(1, len(controllers) + 1)
        ]

    @property
    def bootstrap(self) -> str:
        """All of them."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def __enter__(self) -> Self:
        with ExitStack() as started:
            for broker in self.brokers:  # none answers before two are there
                started.callback(broker.kill)
                broker.launch()
            wait_until(lambda: all(broker.answers() for broker in self.brokers), timeout=120)
            self._stack = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _broker_properties(folder: Path, listeners: Sequence[Listener], node: int, controllers: Sequence[int]) -> str:
    voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controllers, 1))
    return f"""
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners={",".join(f"{each.name}://127.0.0.1:{each.port}" for each in listeners)},CONTROLLER://127.0.0.1:{controllers[node - 1]}
advertised.listeners={",".join(f"{each.name}://127.0.0.1:{each.advertised}" for each in listeners)}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{",".join(f"{each.name}:{each.protocol}" for each in listeners)}
log.dirs={folder / "data"}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
# A heap of 256 MB is too small for the cleaner's default buffer: the cleaner would die and the broker go on without it.
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=2
"""


def _java() -> list[str]:
    java = shutil.which("java")
    if java is None:
        raise RuntimeError("the tests need a real Kafka: install Java 17 or newer, and Maven")
    return [java, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", f"{_libraries()}/*"]


def _libraries() -> Path:
    """The broker's jars, fetched once; of several processes one fetches and the others wait."""
    _LIBRARIES.parent.mkdir(parents=True, exist_ok=True)
    with (_LIBRARIES.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _LIBRARIES.exists():
            partial = _LIBRARIES.with_name(f"libs.{os.getpid()}")
            pom = _ROOT / "tests" / "kafka" / "pom.xml"
            maven = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
            fetched = subprocess.run(maven, check=False, capture_output=True, text=True)
            if fetched.returncode:
                raise RuntimeError(f"Maven could not fetch the Kafka broker:\n{fetched.stdout[-2000:]}{fetched.stderr[-2000:]}")
            partial.rename(_LIBRARIES)
    return _LIBRARIES
