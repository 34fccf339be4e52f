"""What an application imports: `Client` and the errors it raises. Loads nothing heavy; `Client` brings gRPC when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liveloop.errors import (
    DeadlinePassed,
    FeedbackConflict,
    InvalidInput,
    LiveloopError,
    Misconfigured,
    NotFound,
    NotNow,
    Overloaded,
    TokenExpired,
    TokenForged,
    Unavailable,
    WeightsRefused,
)

if TYPE_CHECKING:
    from liveloop.client import Client

    __version__: str

__all__ = [
    "Client",
    "DeadlinePassed",
    "FeedbackConflict",
    "InvalidInput",
    "LiveloopError",
    "Misconfigured",
    "NotFound",
    "NotNow",
    "Overloaded",
    "TokenExpired",
    "TokenForged",
    "Unavailable",
    "WeightsRefused",
]


def __getattr__(name: str) -> Any:
    """Look up what takes time when it is first asked for, so that the command line answers quickly."""
    if name == "Client":
        from liveloop.client import Client

        return Client
    if name == "__version__":
        from importlib.metadata import version

        return version("liveloop")
    raise AttributeError(f"module 'liveloop' has no attribute {name!r}")
