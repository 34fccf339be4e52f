"""`liveloop keys`: the API keys and the keys of the feedback tokens, made, exchanged and revoked. Knows the files; calls no service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from liveloop.access import Scope
from liveloop.api_keys import Client, clients_as_json, new_key, read_clients
from liveloop.errors import Misconfigured, NotFound

Data = Annotated[Path | None, typer.Option(help="Folder with the keys; ./liveloop-data by default.")]
Name = Annotated[str, typer.Argument(help="Whose key it is.", metavar="CLIENT")]


def keys_app() -> typer.Typer:
    """The commands."""
    app = typer.Typer(
        help="API keys, and the keys of the feedback tokens. Services that were started with keys notice within a second.",
        no_args_is_help=True,
    )
    for command in (add, rotate, revoke, rotate_tokens):
        app.command()(command)
    app.command("list")(show)
    return app


def add(client: Name, scope: Annotated[list[Scope], typer.Option(help="What it may do; again for more.")], data: Data = None) -> None:
    """Make a client and its first key, which is shown once and stored nowhere."""
    path = _file(data)
    clients, is_first = read_clients(path), not path.exists()
    if client in clients:
        raise Misconfigured(f"there is a client {client} already: `liveloop keys rotate {client}` makes another key")
    clients[client] = Client(sorted(set(scope)))
    typer.echo(_made(path, clients, client))
    if is_first:
        typer.echo("services that are running ask nobody for a key until they are started again", err=True)


def rotate(client: Name, data: Data = None) -> None:
    """Make another key for a client. Two are good at a time: the oldest of three goes."""
    path = _file(data)
    clients = read_clients(path)
    typer.echo(_made(path, clients, _known(clients, client)))


def revoke(
    client: Name, key_id: Annotated[str, typer.Argument(help="One key; without it the client and all its keys.")] = "", data: Data = None
) -> None:
    """Make a key, or all keys of a client, worthless."""
    path = _file(data)
    clients = read_clients(path)
    if not key_id:
        del clients[_known(clients, client)]
    elif clients[_known(clients, client)].keys.pop(key_id, None) is None:
        raise NotFound(f"{client} has no key {key_id}; `liveloop keys list` shows them")
    _write(path, clients)
    typer.echo(f"{key_id or client} is revoked")


def show(data: Data = None) -> None:
    """The clients, what they may do, and the ids and ages of their keys."""
    clients = read_clients(_file(data))
    for name, client in sorted(clients.items()):
        typer.echo(f"{name}: {', '.join(client.scopes)}")
        for number, key in client.keys.items():
            typer.echo(f"  ll_{number}_…  {(time.time() - key['created_at']) / 86_400:.0f} days old")
    if not clients:
        typer.echo("there are no API keys: everybody on this machine may call, nobody else")


def rotate_tokens(data: Data = None) -> None:
    """Sign feedback tokens with a new key. Those signed before stay good for their window; services take it at their next start,
    and sooner where they meet a token that it signed.
    """
    from liveloop.keys import rotate_token_keys
    from liveloop.settings import load_settings

    settings = load_settings(data=data)
    typer.echo(
        f"tokens are signed with key {rotate_token_keys(settings)} from a pod's next start on; others read it with the first such token"
    )


def _made(path: Path, clients: dict[str, Client], client: str) -> str:
    key = new_key(clients[client], time.time())
    _write(path, clients)
    return key


def _write(path: Path, clients: dict[str, Client]) -> None:
    from liveloop.keys import write_secret

    write_secret(path, clients_as_json(clients))


def _known(clients: dict[str, Client], client: str) -> str:
    if client not in clients:
        raise NotFound(f"there is no client {client}; `liveloop keys list` shows them")
    return client


def _file(data: Path | None) -> Path:
    from liveloop.admission import keys_file
    from liveloop.settings import load_settings

    return keys_file(load_settings(data=data))
