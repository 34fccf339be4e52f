"""Who may call what: the scope that every method asks for, and who is let in. Knows the methods' names; knows no service.

A key travels as `authorization: Bearer KEY`. Without a file of keys every caller may do what needs no vouching, and the services listen on
loopback alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveloop.access import LOCAL, Caller, Scope, called_by
from liveloop.api_keys import Key, find_key, key_in, keys_by_id, read_clients
from liveloop.errors import KeyUnknown, Misconfigured, NotEntitled
from liveloop.settings import Settings, is_loopback
from liveloop.telemetry import logger

_LOOK = 1.0
"""Seconds between two looks whether the file changed."""


OPEN = None
"""For every caller: the call carries its own authority."""

_INFERENCE = "liveloop.v1.InferenceService"
_LEARNER = "liveloop.v1.LearnerService"
SCOPES: Mapping[str, Scope | None] = {
    f"{_INFERENCE}/Predict": Scope.PREDICT,
    f"{_INFERENCE}/SubmitFeedback": OPEN,  # a feedback token is the authority, for it is browsers that judge
    f"{_INFERENCE}/SubmitExamples": Scope.EXAMPLES,
    f"{_INFERENCE}/GetModel": Scope.PREDICT,
    f"{_LEARNER}/GetFeedbackStatus": Scope.READ,
    f"{_LEARNER}/GetFeedbackSummary": Scope.READ,
    f"{_LEARNER}/GetVersion": Scope.READ,
    f"{_LEARNER}/ListVersions": Scope.READ,
    f"{_LEARNER}/ListQuarantine": Scope.READ,
    f"{_LEARNER}/ListDeadLetters": Scope.OPERATE,  # what could not be read may hold anything
    f"{_LEARNER}/GetDeadLetter": Scope.OPERATE,
} | {
    f"{_LEARNER}/{order}": Scope.OPERATE
    for order in (
        *("Promote", "Rollback", "Pin", "Unpin", "Pause", "Resume", "ReleaseQuarantine", "DropQuarantine"),
        *("Forget", "RetryDeadLetters", "AcceptGap"),
    )
}
"""What each method asks for. One that is not here is refused."""


_NOBODY = Caller("", frozenset())


@dataclass(slots=True)
class Access:
    """Lets callers in, by the file at `path`; everybody without one."""

    path: Path | None = None
    _keys: dict[str, Key] = field(default_factory=dict)
    _stamp: tuple[int, int] = (0, 0)
    _look_at: float = 0.0

    @contextmanager
    def admitted(self, method: str, metadata: Iterable[tuple[str, Any]]) -> Iterator[None]:
        """Answer a call of `method` (package.Service/Method) inside; `access.caller` tells there who it is.

        Raises KeyUnknown for a key that is not one of ours, or where one is needed and none is shown; NotEntitled where it lacks the scope.
        """
        with called_by(self._admit(method, metadata)):
            yield

    def _admit(self, method: str, metadata: Iterable[tuple[str, Any]]) -> Caller:
        if self.path is None:
            return LOCAL
        shown = key_in(metadata)
        found = _NOBODY if shown is None else self._owner(shown)
        if method not in SCOPES:
            raise NotEntitled(f"no scope covers {method}")
        wanted = SCOPES[method]
        if wanted is not OPEN and not found.may(wanted):
            if shown is None:
                raise KeyUnknown(f"this call needs an API key with the scope {wanted}: send it as `authorization: Bearer KEY`")
            raise NotEntitled(f"the API key of {found.client} lacks the scope {wanted}")
        return found

    def _owner(self, shown: str) -> Caller:
        self._reload()
        known = find_key(self._keys, shown)
        if known is None:
            raise KeyUnknown("this API key is not known here, or was revoked")
        return Caller(known.client, known.scopes)

    def _reload(self) -> None:
        """Read the file again where it changed; what was read before stands while it cannot be read."""
        if time.monotonic() < self._look_at:
            return
        assert self.path is not None
        self._look_at = time.monotonic() + _LOOK
        try:
            stat = self.path.stat()
            if (stat.st_mtime_ns, stat.st_size) != self._stamp:
                self._keys = keys_by_id(read_clients(self.path))
                self._stamp = (stat.st_mtime_ns, stat.st_size)
        except (OSError, Misconfigured) as error:
            logger().error("the file of API keys cannot be read again; those read before stand", file=str(self.path), reason=str(error))


def open_access(settings: Settings) -> Access:
    """Who is let in by these settings.

    Raises Misconfigured where a service listens beyond loopback and there is no file of keys, or it cannot be read.
    """
    path = keys_file(settings)
    if path.exists() or settings.api_keys_file is not None:
        read_clients(path)  # said at the start, not at the first call
        return Access(path)
    beyond = [
        address for address in (settings.inference_listen, settings.learner_listen, settings.gateway_listen) if not is_loopback(address)
    ]
    if beyond:
        raise Misconfigured(
            f"{beyond[0]} can be reached from other machines and there are no API keys in {path}: make one with"
            " `liveloop keys add CLIENT --scope predict`, or listen on 127.0.0.1"
        )
    return Access()


def keys_file(settings: Settings) -> Path:
    """Where the hashes of the API keys are."""
    return settings.api_keys_file or settings.data / "keys" / "api.json"
