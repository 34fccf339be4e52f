"""The keys: made once by `liveloop init`, read by the processes that need them. Knows files, not what is signed with them."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from liveloop.errors import Misconfigured
from liveloop.settings import Settings


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The keys of the feedback tokens, by key id; new tokens are made with `current`."""

    current: str
    secrets: dict[str, bytes]


def make_keys(folder: Path) -> None:
    """Make all keys that are not there yet, readable by their owner alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "tokens.json").exists():
        write_secret(folder / "tokens.json", json.dumps({"current": "1", "keys": {"1": secrets.token_hex(32)}}).encode())
    if not (folder / "asker.key").exists():
        write_secret(folder / "asker.key", secrets.token_hex(32).encode())
    if not (folder / "signing.key").exists():
        new = Ed25519PrivateKey.generate()
        pem = new.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_secret(folder / "signing.key", pem)
    if not (folder / "verify.key").exists():
        public = _signing_key(folder / "signing.key").public_key()
        write_secret(
            folder / "verify.key", public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )


def token_keys(settings: Settings) -> TokenKeys:
    """The keys of the feedback tokens. Raises Misconfigured where they are missing."""
    path = _token_file(settings)
    try:
        stored = json.loads(_read(path))
        keys = TokenKeys(current=stored["current"], secrets={name: bytes.fromhex(secret) for name, secret in stored["keys"].items()})
        keys.secrets[keys.current]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Misconfigured(f"{path} is not a file of token keys; `liveloop init` makes one") from error
    return keys


def rotate_token_keys(settings: Settings) -> str:
    """Add a key of the feedback tokens and make it the current one; the old ones stay. Returns its id. Raises Misconfigured."""
    path, found = _token_file(settings), token_keys(settings)
    current = str(1 + max((int(one) for one in found.secrets if one.isdigit()), default=0))
    stored = {name: secret.hex() for name, secret in found.secrets.items()} | {current: secrets.token_hex(32)}
    write_secret(path, json.dumps({"current": current, "keys": stored}).encode())
    return current


def asker_key(settings: Settings) -> bytes:
    """The key of the askers' hashes. Raises Misconfigured where it is missing."""
    path = settings.asker_key_file or settings.data / "keys" / "asker.key"
    try:
        return bytes.fromhex(_read(path).decode().strip())
    except ValueError as error:
        raise Misconfigured(f"{path} is not a key in hex; `liveloop init` makes one") from error


def signing_key(settings: Settings) -> Ed25519PrivateKey:
    """The learner's key. Raises Misconfigured where it is missing."""
    return _signing_key(settings.signing_key_file or settings.data / "keys" / "signing.key")


def verify_key(settings: Settings) -> Ed25519PublicKey:
    """The public half of the learner's key. Raises Misconfigured where it is missing."""
    path = settings.verify_key_file or settings.data / "keys" / "verify.key"
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Misconfigured(f"{path} is not an Ed25519 public key in PEM; `liveloop init` makes one") from error
    if not isinstance(key, Ed25519PublicKey):
        raise Misconfigured(f"{path} is not an Ed25519 public key; `liveloop init` makes one")
    return key


def _token_file(settings: Settings) -> Path:
    return settings.token_keys_file or settings.data / "keys" / "tokens.json"


def _signing_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Misconfigured(f"{path} is not an Ed25519 private key in PEM; `liveloop init` makes one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured(f"{path} is not an Ed25519 private key; `liveloop init` makes one")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"the key file {path} cannot be read ({error.strerror}); run `liveloop init`, or name it in the settings"
        raise Misconfigured(reason) from error


def write_secret(path: Path, content: bytes) -> None:
    """Write a file, for its owner's eyes alone, that is there whole or as before, whatever interrupts this."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_bytes(content)
    partial.rename(path)
