"""Whether a port can be listened on, told before gRPC tries: it writes lines of its own where it fails. Knows sockets alone."""

from __future__ import annotations

import socket

from liveloop.errors import Misconfigured
from liveloop.settings import host_port


def family(host: str) -> socket.AddressFamily:
    """IPv6 for an address that is written with colons, IPv4 for everything else."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def require_free(address: str) -> None:
    """Raise Misconfigured when nobody can listen on `address` (host:port) now."""
    host, port = host_port(address)
    try:
        socket.create_server((host, port), family=family(host)).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # without Python's repetition of the address
        raise Misconfigured(f"cannot listen on {address} ({reason}); is liveloop already running? choose another port") from error
