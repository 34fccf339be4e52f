"""How to get into Kafka: TLS, a user and a password, a certificate, and what a failure means. Knows kafka-python, not events.

kafka-python tells of most that is wrong with a connection only in its log, and its caller of a time-out; the manager here keeps the cause.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from liveloop.errors import Misconfigured

CLIENT: dict[str, Any] = {
    "client_id": "liveloop",
    "bootstrap_timeout_ms": 3_000,
    "request_timeout_ms": 6_000,
    "reconnect_backoff_max_ms": 1000,
}


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the brokers and who asks. Files are read again for every new connection."""

    servers: tuple[str, ...]  # host:port
    tls: bool = False
    username: str = ""  # empty: none is asked for
    password_file: Path | None = None
    mechanism: str = "SCRAM-SHA-512"
    ca_file: Path | None = None  # None: the authorities of the system
    cert_file: Path | None = None  # None: no certificate of our own
    key_file: Path | None = None

    def __str__(self) -> str:
        return ",".join(self.servers)

    def check(self) -> None:
        """Raise Misconfigured when files cannot be read, or do not go together."""
        if bool(self.username) != bool(self.password_file):
            raise Misconfigured("for a user of Kafka both the name (kafka_username) and its password (kafka_password_file) are needed")
        if (self.ca_file or self.cert_file) and not self.tls:
            raise Misconfigured("certificates are given but the events URL does not ask for TLS: begin it with kafkas://")
        if bool(self.cert_file) != bool(self.key_file):
            raise Misconfigured("a certificate for Kafka needs its key: set both kafka_cert_file and kafka_key_file")
        if self.username and self.mechanism == "PLAIN" and not self.tls:
            raise Misconfigured("PLAIN sends the password as it is: begin the events URL with kafkas://, or use SCRAM-SHA-512")
        try:
            self.secrets()
        except Unreadable as error:
            raise Misconfigured(str(error)) from error

    def options(self) -> dict[str, Any]:
        """What every client of kafka-python is made with, but for what is secret."""
        protocol = ("SASL_" if self.username else "") + ("SSL" if self.tls else "PLAINTEXT")
        found = {"bootstrap_servers": list(self.servers), "security_protocol": protocol.removesuffix("_"), **CLIENT}
        return found | ({"sasl_mechanism": self.mechanism, **self.secrets()} if self.username else self.secrets())

    def secrets(self) -> dict[str, Any]:
        """What is read anew for every connection. Raises Unreadable."""
        found: dict[str, Any] = {}
        if self.tls:
            found["ssl_context"] = self._context()
        if self.password_file:
            found |= {"sasl_plain_username": self.username, "sasl_plain_password": _password(self.password_file)}
        return found

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file and str(self.ca_file))
        except OSError as error:  # an SSLError is one
            raise Unreadable(f"the CA file {self.ca_file} is not a certificate in PEM that can be read") from error
        if self.cert_file and self.key_file:
            try:
                context.load_cert_chain(self.cert_file, self.key_file, password="")  # an encrypted key is refused, not asked about
            except OSError as error:
                raise Unreadable(f"{self.cert_file} and {self.key_file} are not a certificate and its key in PEM") from error
        return context


class Unreadable(errors.KafkaConnectionError):  # type: ignore[misc]  # kafka-python is not typed
    """A file that a new connection needs cannot be used; kafka-python gives the connection up and tries again later."""


class Connections:
    """The connections of one client: reads secrets for each new one, and keeps what ended the last one that failed."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self.cause: BaseException | None = None  # of the newest failure that tells one, until a connection succeeds
        self._opened: list[KafkaNetClient] = []

    def client(self, kind: Callable[..., Any], **config: Any) -> Any:
        """A client of kafka-python, connected. One that cannot connect would leave its thread behind, hence the list."""
        try:
            return kind(kafka_client=self._network, **self._access.options(), **config)
        except BaseException:
            for opened in self._opened:
                opened.close()
            raise

    def _network(self, **config: Any) -> KafkaNetClient:
        net = NetworkSelector(**config)
        self._opened.append(KafkaNetClient(net=net, manager=_Manager(net, self._access, self._remember, **config)))
        return self._opened[-1]

    def _remember(self, cause: BaseException | None) -> None:
        if self.cause is None or "timed out" not in str(cause):  # a busy broker's silence hides no refusal that it gave before
            self.cause = cause


class _Manager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python is not typed
    def __init__(self, net: NetworkSelector, access: Access, remember: Callable[[BaseException | None], None], **config: Any) -> None:
        super().__init__(net, **config)
        self._access = access
        self._remember = remember

    async def _connect(self, node: Any, conn: Any, *args: Any, **kwargs: Any) -> None:
        conn.close_future.add_errback(self._remember)
        try:
            secrets = self._access.secrets()
        except Unreadable as error:
            conn.connection_lost(error)
            self.update_backoff(node.node_id)
            return
        self.config.update(secrets)
        conn.config.update(secrets)
        await super()._connect(node, conn, *args, **kwargs)
        if conn.connected:
            self._remember(None)

    async def _build_transport(self, *args: Any, **kwargs: Any) -> Any:
        """One that hands on what a broker said before it hung up: why it does not let us in."""
        transport = await super()._build_transport(*args, **kwargs)
        receive = transport._sock_recv  # gives data and an error; kafka-python drops the data where both come

        def data_before_end() -> tuple[bytes, BaseException | None]:
            data, error = receive()
            return data, None if data else error

        transport._sock_recv = data_before_end
        return transport


def reason(error: BaseException, access: Access, *, doing: str) -> str:
    """What a failure means, to end a sentence that begins with Kafka; never with a password in it."""
    chain = _chain(error)
    for kind, meaning in _MEANINGS.items():
        if found := next((link for link in chain if isinstance(link, kind)), None):
            return meaning(found, access, doing)
    if "AuthorizationFailed" in str(error):  # an idempotent producer asks for its number first, and is told of a refusal by text alone
        return _MEANINGS[errors.AuthorizationError](error, access, doing)
    return f"does not do its part: {error}"


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and what brought it about; kafka-python hands some causes on as arguments."""
    chain: list[BaseException] = []
    while error is not None and not any(error is link for link in chain):
        chain.append(error)
        inner = next((argument for argument in error.args if isinstance(argument, BaseException)), None)
        error = inner or error.__cause__ or error.__context__
    return chain


def _tls(error: BaseException, access: Access, _: str) -> str:
    said = getattr(error, "reason", None) or str(error)
    if access.tls and "ALERT" in said:
        return f"refuses our certificate or its absence ({said}): check kafka_cert_file and kafka_key_file"
    return f"does not speak TLS as we do ({said}): is the port one for TLS?"


def _hung_up(error: BaseException, access: Access, _: str) -> str:
    said = str(error.args[0]) if error.args else ""
    if "ECONNREFUSED" in said:
        return "refuses connections: nothing listens there"
    if "DNS" in said:
        return f"cannot be found: {said}"
    hint = _hint(access) if "disconnected" in said else ""
    return f"does not answer ({said}){hint}" if said else "does not answer"


def _hint(access: Access) -> str:
    asks = [what for what, given in (("TLS (kafkas://)", access.tls), ("a user (kafka_username)", access.username)) if not given]
    return f"; if this lasts, it asks for {' or '.join(asks)}" if asks else ""


Meaning = Callable[[BaseException, Access, str], str]
_MEANINGS: dict[type[BaseException], Meaning] = {
    Unreadable: lambda error, _access, _doing: f"cannot be asked: {error.args[0]}",
    ssl.SSLCertVerificationError: lambda error, _access, _doing: f"cannot be trusted: {getattr(error, 'verify_message', error)}",
    ssl.SSLError: _tls,
    errors.SaslAuthenticationFailedError: lambda _error, _access, _doing: "does not accept the user or the password",
    errors.UnsupportedSaslMechanismError: lambda _error, access, _doing: f"does not offer {access.mechanism}: set kafka_sasl_mechanism",
    errors.AuthorizationError: lambda _error, access, doing: f"does not let {access.username or 'this user'} {doing}",
    errors.NotEnoughReplicasError: lambda *_: "has too few brokers in step for min.insync.replicas",
    errors.NotEnoughReplicasAfterAppendError: lambda *_: "has too few brokers in step for min.insync.replicas",
    errors.KafkaProtocolError: lambda _error, access, _doing: f"does not answer as Kafka does{_hint(access)}",
    errors.KafkaConnectionError: _hung_up,
    errors.KafkaTimeoutError: lambda *_: "does not answer in time",
}


def _password(file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        raise Unreadable(f"the password file {file} cannot be read") from error
    if not password or "\n" in password:
        raise Unreadable(f"the password file {file} is not one line of text")
    return password
