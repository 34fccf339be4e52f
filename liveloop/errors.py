"""Every error liveloop raises on purpose, and the gRPC status each one becomes. Knows no service.

LiveloopError                INTERNAL
├── InvalidInput             INVALID_ARGUMENT      the caller's fault; names the field
├── KeyUnknown               UNAUTHENTICATED       an API key is missing, or is none of ours
├── NotEntitled              PERMISSION_DENIED     the caller may not do this
│   └── TokenForged                                missing, forged, or of another prediction
├── NotNow                   FAILED_PRECONDITION   as things stand it cannot be done
│   └── TokenExpired                               was good once
├── FeedbackConflict         ALREADY_EXISTS        the same feedback id with other content
├── Overloaded               RESOURCE_EXHAUSTED    a queue or a log is full; try again
├── DeadlinePassed           DEADLINE_EXCEEDED     before the model ran
├── NotFound                 NOT_FOUND
├── Unavailable              UNAVAILABLE           a service, broker or store cannot be reached
├── Misconfigured            FAILED_PRECONDITION   settings, keys, model or data: one sentence, exit code 2
└── WeightsRefused           DATA_LOSS             nothing outside a signature is trusted
    ├── BlobMissing                                a blob is not in the store
    ├── BlobCorrupt                                its bytes do not match its name, or do not decode
    ├── BadSignature                               not signed by the learner's key
    ├── WrongLayout                                made for another layout or model
    ├── StaleHead                                  a head older than one already seen
    └── HeadConflict                               another publisher moved the head first
"""

from __future__ import annotations


class LiveloopError(Exception):
    """The root. `code` is the name of a gRPC status, `field` the field at fault where there is one."""

    code = "INTERNAL"

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


class InvalidInput(LiveloopError):
    """What the caller sent cannot be used."""

    code = "INVALID_ARGUMENT"


class KeyUnknown(LiveloopError):
    """The call needs an API key and shows none, or one that is not known or was revoked."""

    code = "UNAUTHENTICATED"


class NotEntitled(LiveloopError):
    """The caller may not do this: it takes an API key with another scope."""

    code = "PERMISSION_DENIED"


class TokenForged(NotEntitled):
    """The feedback token is missing, was not made here, or belongs to another prediction."""


class NotNow(LiveloopError):
    """It cannot be done as things stand: another learner leads, or a version is not kept any more."""

    code = "FAILED_PRECONDITION"


class TokenExpired(NotNow):
    """The feedback token was good once; the feedback window is over."""


class FeedbackConflict(LiveloopError):
    """The same feedback id came before with other content."""

    code = "ALREADY_EXISTS"


class Overloaded(LiveloopError):
    """A queue or a log is full. `retry_after` is in seconds."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, reason: str, *, retry_after: float = 1.0, field: str = "") -> None:
        super().__init__(reason, field=field)
        self.retry_after = retry_after


class DeadlinePassed(LiveloopError):
    """The caller's deadline passed before the model ran."""

    code = "DEADLINE_EXCEEDED"


class NotFound(LiveloopError):
    """There is no such thing, or it has not been read yet."""

    code = "NOT_FOUND"


class Unavailable(LiveloopError):
    """A service, broker or store cannot be reached."""

    code = "UNAVAILABLE"


class Misconfigured(LiveloopError):
    """Settings, keys, model or data are not usable: says what is wrong and what to do."""

    code = "FAILED_PRECONDITION"


class WeightsRefused(LiveloopError):
    """Weights that cannot be trusted or applied; what is served stays."""

    code = "DATA_LOSS"


class BlobMissing(WeightsRefused):
    """A blob is not in the store."""


class BlobCorrupt(WeightsRefused):
    """The bytes of a blob do not match its name, or do not decode."""


class BadSignature(WeightsRefused):
    """Not signed by the learner's key."""


class WrongLayout(WeightsRefused):
    """Made for another layout or another model."""


class StaleHead(WeightsRefused):
    """A head older than one that was already seen."""


class HeadConflict(WeightsRefused):
    """Another publisher moved the head first, or holds a newer epoch."""


def sentence(error: LiveloopError | OSError) -> str:
    """One sentence for a person; a file that cannot be read or written is named."""
    if isinstance(error, LiveloopError):
        return error.reason
    return f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"
