"""What an application imports: the clients and the errors they raise. Loads nothing heavy; a client brings gRPC when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liveloop.errors import (
    DeadlinePassed,
    FeedbackConflict,
    InvalidInput,
    KeyUnknown,
    LiveloopError,
    Misconfigured,
    NotEntitled,
    NotFound,
    NotNow,
    Overloaded,
    TokenExpired,
    TokenForged,
    Unavailable,
    WeightsRefused,
)

if TYPE_CHECKING:
    from liveloop.client import AsyncClient, Client
    from liveloop.rows import Row

    __version__: str

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlinePassed",
    "FeedbackConflict",
    "InvalidInput",
    "KeyUnknown",
    "LiveloopError",
    "Misconfigured",
    "NotEntitled",
    "NotFound",
    "NotNow",
    "Overloaded",
    "Row",
    "TokenExpired",
    "TokenForged",
    "Unavailable",
    "WeightsRefused",
]


def __getattr__(name: str) -> Any:
    """Look up what takes time when it is first asked for, so that the command line answers quickly."""
    if name in ("Client", "AsyncClient"):
        from liveloop import client

        return getattr(client, name)
    if name == "Row":
        from liveloop.rows import Row

        return Row
    if name == "__version__":
        from importlib.metadata import version

        return version("liveloop")
    raise AttributeError(f"module 'liveloop' has no attribute {name!r}")
