"""Who calls, and what they may do: names and scopes. Knows no service; what a call needs is said where it is served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

HEADER = "authorization"
"""Where a key travels, as `Bearer KEY`: the HTTP header, the gRPC metadata."""


class Scope(StrEnum):
    """What an API key can entitle a client to."""

    PREDICT = "predict"
    FEEDBACK = "feedback"  # without a token, in another's name, as an expert or a program
    EXAMPLES = "examples"
    READ = "read"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes the call that is served now."""

    client: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """The caller is entitled to it."""
        return scope in self.scopes


LOCAL = Caller("", frozenset(Scope) - {Scope.FEEDBACK})
"""Everybody, where there are no keys: a token is still needed to judge."""
_CALLER: ContextVar[Caller] = ContextVar("caller", default=LOCAL)


def caller() -> Caller:
    """Who makes the call that is served now."""
    return _CALLER.get()


@contextmanager
def called_by(who: Caller) -> Iterator[None]:
    """Inside, `who` is the caller."""
    before = _CALLER.set(who)
    try:
        yield
    finally:
        _CALLER.reset(before)
