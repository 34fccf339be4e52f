"""Where Redis is and how to get in: the URL's forms, a password, a CA. Knows redis-py's clients and their errors; knows no blobs.

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]        one server
    redis+sentinel://[...@]HOST[:PORT],HOST[:PORT]/SERVICE  the master that these Sentinels name
    redis+cluster://[...@]HOST[:PORT],HOST[:PORT]           the cluster that these nodes belong to

Each may end in ?prefix=NAME, and begins with rediss where TLS is spoken, to the Sentinels too.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.credentials import CredentialProvider
from redis.exceptions import ClusterDownError, NoPermissionError, RedisClusterException
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from liveloop.errors import Misconfigured

FAILURES = (redis.RedisError, RedisClusterException, OSError)
"""What a client raises when a call did not succeed."""

_FORM = re.compile(r"redis(?P<tls>s?)(\+(?P<kind>sentinel|cluster))?")
_PORT, _SENTINEL_PORT = 6379, 26379
_CONNECT_TIMEOUT, _TIMEOUT = 2.0, 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says."""

    kind: str  # "" (one server), "sentinel" or "cluster"
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str = field(repr=False)
    path: str  # of a server the database, of Sentinels the service
    prefix: str  # of every key

    def __str__(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.hosts)


def parse(url: str) -> Address:
    """Read a URL. Raises Misconfigured, which never repeats it."""
    wrong = Misconfigured(
        "the weight store's URL is none of redis://[USER[:PASSWORD]@]HOST:PORT[/DATABASE], "
        "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE and redis+cluster://HOST:PORT,HOST:PORT"
    )
    try:
        parts = urlsplit(url)
        form = _FORM.fullmatch(parts.scheme)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        user, _, places = parts.netloc.rpartition("@")
        kind = (form and form["kind"]) or ""
        hosts = tuple(_host(place, _SENTINEL_PORT if kind == "sentinel" else _PORT) for place in places.split(","))
    except ValueError:
        raise wrong from None
    path = unquote(parts.path.strip("/"))
    fits = {"": len(hosts) == 1 and (path.isdigit() or not path), "sentinel": bool(path), "cluster": not path}[kind]
    if form is None or not fits or parts.fragment:
        raise wrong
    prefix = query.pop("prefix", "liveloop")
    if query or not re.fullmatch(r"[A-Za-z0-9_.-]+", prefix):
        raise Misconfigured("the weight store's URL takes ?prefix=NAME (letters, digits, _ . -) and nothing else")
    name, _, password = user.partition(":")
    return Address(kind, bool(form["tls"]), hosts, unquote(name), unquote(password), path, prefix)


def client_for(address: Address, *, password_file: Path | None, ca_file: Path | None) -> redis.Redis:
    """A client with its own pool of connections; that of a cluster connects at once, the others when they are first used."""
    options: dict[str, Any] = {"socket_connect_timeout": _CONNECT_TIMEOUT, "socket_timeout": _TIMEOUT, "decode_responses": False}
    options["protocol"] = 2  # of RESP3 nothing is needed, and to log in AUTH is enough
    if address.tls:
        options |= {"ssl": True, "ssl_ca_certs": ca_file and str(ca_file), "ssl_cert_reqs": "required", "ssl_check_hostname": True}
    credentials: dict[str, Any] = {}
    if address.user or address.password or password_file:
        credentials["credential_provider"] = _Credentials(address.user, address.password, password_file)
    again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))  # the server may have closed an idle connection
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]  # type: ignore[no-untyped-call]
        cluster = redis.RedisCluster(startup_nodes=nodes, require_full_coverage=False, retry=again, **options, **credentials)
        return cast("redis.Redis", cluster)  # it answers the same calls
    if address.kind == "sentinel":
        sentinels: Any = Sentinel  # it is not typed
        asking = options | {"retry": Retry(NoBackoff(), 0)}  # the next Sentinel is the second try
        sentinel = sentinels(address.hosts, sentinel_kwargs=asking, retry=again, **options, **credentials)
        if credentials:  # Sentinels may ask for the same user and password: who refuses to answer without is asked with
            sentinel.sentinels += sentinels(address.hosts, sentinel_kwargs=asking | credentials).sentinels
        return cast("redis.Redis", sentinel.master_for(address.path))
    host, port = address.hosts[0]
    return redis.Redis(host=host, port=port, db=int(address.path or 0), retry=again, **options, **credentials)


def check_files(address: Address, *, password_file: Path | None, ca_file: Path | None) -> None:
    """Raise Misconfigured when the files cannot be read, or do not go with the URL."""
    if password_file and address.password:
        raise Misconfigured("the password of Redis is both in the weight store's URL and in a file: take it out of the URL")
    if ca_file and not address.tls:
        raise Misconfigured("a CA file is given but the weight store's URL does not ask for TLS: begin it with rediss")
    try:
        if password_file:
            _read_password(password_file)
        if ca_file:
            ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise Misconfigured(f"the CA file {ca_file} holds no certificate in PEM") from error
    except OSError as error:
        raise Misconfigured(f"the file {error.filename or ca_file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise Misconfigured(f"the password file {password_file} is not one line of text") from error


def reason(error: BaseException) -> str:
    """What a failure means, to end a sentence that begins with the store; never with a password in it."""
    certificate = _certificate_error(error)
    if certificate is not None:
        return f"cannot be trusted: {certificate.verify_message or certificate.reason}"
    for kind, meaning in _MEANINGS.items():
        if isinstance(error, kind):
            return meaning
    if isinstance(error, NoPermissionError):
        return f"lets this user not do that: {error}"
    if isinstance(error, redis.ResponseError):
        return f"refuses: {error}"
    return f"does not answer ({type(error).__name__})"


class _NoPassword(redis.AuthenticationError):
    """The password file cannot be used any more; a kind of error after which redis-py lets go of the connection."""


_MEANINGS: dict[type[BaseException], str] = {
    _NoPassword: "cannot be asked: the password file is not one line of text that can be read",
    redis.OutOfMemoryError: "is full: give it more memory (maxmemory)",
    redis.AuthenticationError: "does not accept the user or the password",
    redis.ReadOnlyError: "is a replica: name its master, or its Sentinels",
    redis.BusyLoadingError: "is still loading its data",
    MasterNotFoundError: "has no master that a Sentinel names",
    ClusterDownError: "is a cluster that is down",
    RedisClusterException: "is no cluster of which a node for these keys can be reached",
}


class _Credentials(CredentialProvider):
    """Asked at every new connection, so that a password that was changed in its file is used without a restart."""

    def __init__(self, user: str, password: str, file: Path | None) -> None:
        self._user, self._password, self._file = user, password, file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = _read_password(self._file) if self._file else self._password
        except (OSError, ValueError) as error:
            raise _NoPassword from error
        return (self._user, password) if self._user else (password,)


def _read_password(file: Path) -> str:
    password = file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    if not password or "\n" in password:
        raise ValueError("not one line")
    return password


def _host(place: str, default: int) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s/]+)(?::(\d{1,5}))?", place)
    if found is None:
        raise ValueError("not a host")
    return found[1].strip("[]"), int(found[2] or default)


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
