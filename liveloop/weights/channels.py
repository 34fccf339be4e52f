"""The channels of a canary: what each one serves, and whose answers come from which. Knows heads and hashes; knows no store and no bits.

Without a canary there is one channel, CURRENT. With one, a stable share of the askers is answered by the head's current version and the
rest by its blessed one.
"""

from __future__ import annotations

from enum import IntEnum

from liveloop.errors import BlobCorrupt
from liveloop.v1.weights_pb2 import ChainLink, Head


class Channel(IntEnum):
    """Which of the head's two versions; the numbers are those of the contract's `Channel`."""

    CURRENT = 1
    BLESSED = 2


def channel_of(asker: bytes, share: float) -> Channel:
    """The channel of the asker with this keyed hash; an asker who is in CURRENT at one `share` is so at every greater one."""
    return Channel.CURRENT if int.from_bytes(asker[:8], "big") < share * 2.0**64 else Channel.BLESSED


def has_canary(head: Head) -> bool:
    """Whether this head names two channels."""
    return head.canary_share < 1.0


def links_of(head: Head) -> dict[Channel, ChainLink]:
    """The version of each channel in use. Raises BlobCorrupt when the head does not lead to its blessed version."""
    links = {Channel.CURRENT: head.chain[-1]}
    if has_canary(head):
        named = {link.version: link for link in [*head.kept, *head.chain]}
        if head.blessed not in named:
            raise BlobCorrupt(f"the head does not lead to its blessed version {head.blessed}")
        links[Channel.BLESSED] = named[head.blessed]
    return links
