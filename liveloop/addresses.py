"""Where a command finds the loop: command line, environment, liveloop.toml, default, as the services find each other. Calls nothing."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveloop.errors import Misconfigured

if TYPE_CHECKING:
    from liveloop.client import Client

Data = Annotated[Path | None, typer.Option(help="Folder with the last answers; ./liveloop-data by default.")]
GrpcPort = Annotated[int | None, typer.Option(min=1, max=65_535, help="gRPC port of the inference service on this machine.")]
Why = Annotated[str, typer.Option(help="Why: kept in the journal.")]
Who = Annotated[str, typer.Option(help="Who orders it, kept in the journal; your login name by default.", show_default=False)]
LearnerPort = Annotated[int | None, typer.Option(min=1, max=65_535, help="gRPC port of the learner on this machine.")]


def connect(grpc_port: int | None = None, *, learner_port: int | None = None, timeout: float = 10.0) -> Client:
    """A client of the loop that is meant here; `timeout` is for a whole call, in seconds."""
    from liveloop.api_keys import api_key
    from liveloop.client import Client

    return Client(
        _address("inference", grpc_port),
        learner=_address("learner", learner_port),
        timeout=timeout,
        key=api_key(_file("key_file")),
        ca=_file("tls_ca_file"),
        cert=_file("tls_client_cert_file"),
    )


def login() -> str:
    """Who sits at this terminal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return f"uid {os.getuid()}"


def data_folder(folder: Path | None) -> Path:
    """The folder named on the command line, else the one that is set."""
    return folder or Path(_setting("data") or "liveloop-data")


def _file(name: str) -> Path | None:
    """The file that a setting names; none where it is empty."""
    path = _setting(name)
    return Path(path) if path else None


def _address(service: str, port: int | None) -> str:
    if port:
        return f"127.0.0.1:{port}"
    default = {"inference": "127.0.0.1:50051", "learner": "127.0.0.1:50052"}[service]
    return _setting(f"{service}_target") or _setting(f"{service}_listen") or default


def _setting(name: str) -> str:
    """A setting that the client shares with the services; `liveloop.settings` itself needs more than the wheel brings."""
    value = os.environ.get(f"LIVELOOP_{name.upper()}", "")
    if not value and Path("liveloop.toml").is_file():
        import tomllib

        try:
            value = str(tomllib.loads(Path("liveloop.toml").read_text(encoding="utf-8")).get(name, ""))
        except (OSError, ValueError) as error:
            raise Misconfigured(f"liveloop.toml cannot be read: {error}") from error
    return value
