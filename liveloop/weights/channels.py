"""The channels: which version each one serves, and whose answers come from which. Knows heads and hashes; knows no store and no bits.

Without a canary there is one channel, CURRENT. With one, a stable share of the askers is answered by the head's current version and the
rest by its blessed one. Where a pod holds users out, a stable share of all askers is answered by version 1, with a canary or without.
"""

from __future__ import annotations

from enum import IntEnum

from liveloop.errors import BlobCorrupt
from liveloop.v1.weights_pb2 import ChainLink, Head


class Channel(IntEnum):
    """Which of the versions that the head names; the numbers are those of the contract's `Channel`."""

    CURRENT = 1
    BLESSED = 2
    HOLDOUT = 3


FIRST = 1
"""The version before any feedback: it answers those who are held out, and is kept for ever."""


def channel_of(asker: bytes, share: float, holdout: float = 0.0) -> Channel:
    """The channel of the asker with this keyed hash, 16 bytes.

    An asker who is in CURRENT at one `share`, or held out at one `holdout`, is so at every greater one; the two have nothing to do with
    each other.
    """
    if int.from_bytes(asker[8:], "big") < holdout * 2.0**64:
        return Channel.HOLDOUT
    return Channel.CURRENT if int.from_bytes(asker[:8], "big") < share * 2.0**64 else Channel.BLESSED


def has_canary(head: Head) -> bool:
    """Whether this head names two channels."""
    return head.canary_share < 1.0


def channels_of(head: Head, *, holdout: bool = False) -> list[Channel]:
    """The channels in use, CURRENT first; HOLDOUT where the pod holds users out."""
    return [Channel.CURRENT, *[Channel.BLESSED] * has_canary(head), *[Channel.HOLDOUT] * holdout]


def link_of(head: Head, channel: Channel) -> ChainLink:
    """The version that a channel serves. Raises BlobCorrupt when the head does not lead to it."""
    if channel is Channel.CURRENT:
        return head.chain[-1]
    version = FIRST if channel is Channel.HOLDOUT else head.blessed
    named = {link.version: link for link in [*head.kept, *head.chain]}
    if version not in named:
        raise BlobCorrupt(f"the head does not lead to version {version}")
    return named[version]
