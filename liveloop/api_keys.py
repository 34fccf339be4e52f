"""API keys: a file of clients, their scopes and the hashes of their keys, and how a key is shown. Knows the file; knows no method.

A key is `ll_ID_SECRET`. Its secret is 32 random bytes, so that one SHA-256 of it can be stored: there is nothing to guess that a slow hash
would have to protect, and a check costs microseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveloop.access import HEADER, Scope
from liveloop.errors import Misconfigured

KEYS_PER_CLIENT = 2
"""Active keys of one client at the most: the old one and the new one, while they are exchanged."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Key:
    """One active key."""

    client: str
    digest: bytes
    scopes: frozenset[Scope]


@dataclass(slots=True)
class Client:
    """A client as the file has it."""

    scopes: list[Scope]
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)  # by key id: sha256 in hex, created_at in Unix seconds


def read_clients(path: Path) -> dict[str, Client]:
    """The clients of a file, by name; none where there is no file. Raises Misconfigured where it is not one of API keys."""
    try:
        stored = json.loads(path.read_bytes())
        if stored["format"] != _FORMAT:
            raise Misconfigured(f"{path} is a file of API keys of format {stored['format']}; this liveloop reads {_FORMAT}")
        clients = {name: Client([Scope(scope) for scope in one["scopes"]], one["keys"]) for name, one in stored["clients"].items()}
        keys_by_id(clients)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Misconfigured(f"{path} is not a file of API keys; `liveloop keys` makes one") from error
    return clients


def clients_as_json(clients: Mapping[str, Client]) -> bytes:
    """What the file holds."""
    body = {name: {"scopes": one.scopes, "keys": one.keys} for name, one in clients.items()}
    return json.dumps({"format": _FORMAT, "clients": body}, indent=1).encode()


def new_key(client: Client, now: float) -> str:
    """Add a key to a client and return it: it is stored nowhere. The oldest goes where there would be more than two."""
    number, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    client.keys[number] = {"sha256": _digest(secret).hex(), "created_at": now}
    for old in list(client.keys)[:-KEYS_PER_CLIENT]:  # in the order in which they were made, whatever the clock says
        del client.keys[old]
    return f"ll_{number}_{secret}"


def key_in(metadata: Iterable[tuple[str, Any]]) -> str | None:
    """The key that a call came with: None where it came with none, empty where the header holds something else."""
    header = next((str(value) for name, value in metadata if name == HEADER), "")
    kind, _, key = header.partition(" ")
    return None if not header else key.strip() if kind.lower() == "bearer" else ""


def find_key(keys: Mapping[str, Key], shown: str) -> Key | None:
    """The key that was shown, if it is one of ours; compared in constant time. Only one spelling of a key is good: limits go by it."""
    kind, _, rest = shown.partition("_")
    number, _, secret = rest.partition("_")
    known = keys.get(number) if kind == "ll" else None
    return known if known is not None and hmac.compare_digest(_digest(secret), known.digest) else None


def keys_by_id(clients: Mapping[str, Client]) -> dict[str, Key]:
    """Every active key, by its id."""
    return {
        number: Key(name, bytes.fromhex(key["sha256"]), frozenset(one.scopes))
        for name, one in clients.items()
        for number, key in one.keys.items()
    }


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def api_key(path: Path | None) -> str:
    """The key in a file of one line; empty where no file is named. Raises Misconfigured where it cannot be read."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise Misconfigured(f"the API key in {path} cannot be read: {error}") from error
