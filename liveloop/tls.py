"""TLS of the listeners: certificates from files, read again when they change. Knows settings and files; knows no service."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from liveloop.errors import Misconfigured
from liveloop.rpc import channel_credentials
from liveloop.settings import Settings
from liveloop.telemetry import logger

Made = TypeVar("Made")
Stamp = tuple[tuple[int, int, int], ...]


class Files(Generic[Made]):
    """What is made from files, made again when one of them changes; what was made before stands while that fails. For any thread."""

    def __init__(self, paths: list[Path], make: Callable[[], Made]) -> None:
        """Raises Misconfigured when it cannot be made now."""
        self._paths, self._make = paths, make
        self._lock = threading.Lock()
        try:
            self._stamp, self._made = self._look(), make()
        except (OSError, ValueError) as error:
            names = ", ".join(str(path) for path in paths)
            raise Misconfigured(f"TLS cannot be set up from {names}: {error}") from error

    def current(self) -> Made:
        """The newest that could be made."""
        with self._lock:
            try:
                stamp = self._look()
                if stamp != self._stamp:
                    self._made, self._stamp = self._make(), stamp
            except (OSError, ValueError) as error:  # half written, or certificate and key of two pairs: the next look finds the rest
                logger().warning("the new certificate cannot be used yet; the one before stands", reason=str(error))
            return self._made

    def _look(self) -> Stamp:
        return tuple((found.st_mtime_ns, found.st_size, found.st_ino) for found in (path.stat() for path in self._paths))


def https(settings: Settings) -> ssl.SSLContext | None:
    """What an HTTPS listener shows; every new connection gets the certificate of the files as they are then. None: no TLS."""
    paths = _paths(settings)
    if not paths:
        return None
    files = Files(paths, lambda: _context(settings))

    def hello(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = files.current()

    outer = _context(settings)
    outer.sni_callback = hello
    return outer


def grpc_server(settings: Settings) -> grpc.ServerCredentials | None:
    """As `https`, for gRPC."""
    paths = _paths(settings)
    if not paths:
        return None
    files = Files(paths, lambda: _configuration(settings))
    return grpc.dynamic_ssl_server_credentials(files.current(), files.current, settings.tls_client_ca_file is not None)


def listen(server: Any, address: str, credentials: grpc.ServerCredentials | None) -> None:
    """Listen on `address`, with TLS where there are credentials. `server` is one of grpc or grpc.aio. Raises RuntimeError: it is taken."""
    if credentials is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, credentials)


def channel_to(settings: Settings) -> grpc.ChannelCredentials | None:
    """What a service calls another with; None: no TLS. Raises Misconfigured when a file cannot be read."""
    return channel_credentials(settings.tls_ca_file, settings.tls_client_cert_file)


def _paths(settings: Settings) -> list[Path]:
    found = [path for path in (settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file) if path is not None]
    if found and (settings.tls_cert_file is None or settings.tls_key_file is None):
        raise Misconfigured("TLS takes a certificate and its key: set both tls_cert_file and tls_key_file")
    return found


def _context(settings: Settings) -> ssl.SSLContext:
    assert settings.tls_cert_file is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    if settings.tls_client_ca_file is not None:
        context.load_verify_locations(settings.tls_client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _configuration(settings: Settings) -> grpc.ServerCertificateConfiguration:
    """The same files for gRPC, which takes whatever it is given: that the key is the certificate's is checked by making the other kind."""
    assert settings.tls_cert_file is not None and settings.tls_key_file is not None
    _context(settings)
    ca = settings.tls_client_ca_file
    pair = (settings.tls_key_file.read_bytes(), settings.tls_cert_file.read_bytes())
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca.read_bytes() if ca else None)
