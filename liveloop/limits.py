"""How much one caller may ask: token buckets by name, in a bounded memory. Pure; knows addresses, no service and no clock of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote

from liveloop.errors import Misconfigured

BURST = 10.0
"""Seconds' worth of its rate that a caller who was quiet may take at once."""
_SMALLEST_BURST = 256
"""A call of the most items that a call may have always fits a full bucket."""
_MOST = 20_000
"""Buckets kept, about 5 MB; the one unused longest is forgotten first, and is full when it comes back."""


class Buckets:
    """One token bucket for every name. For one thread."""

    def __init__(self, rate: float, *, clock: Callable[[], float], most: int = _MOST) -> None:
        """`rate` is in items per second; `clock` tells seconds."""
        self._rate = rate
        self._burst = max(rate * BURST, _SMALLEST_BURST)
        self._clock = clock
        self._most = most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # items left, and when that was so

    def __len__(self) -> int:
        return len(self._left)

    def take(self, name: str, items: int = 1) -> float:
        """Take `items` and return 0, or take nothing and return the seconds after which there are as many."""
        now = self._clock()
        left, since = self._left.pop(name, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        needed = min(float(items), self._burst)
        taken = left >= needed
        self._left[name] = (left - needed if taken else left, now)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return 0.0 if taken else (needed - left) / self._rate


class Proxies:
    """Which addresses are our own machinery: what they say of whom they stand before is believed, and they are not limited."""

    def __init__(self, networks: str) -> None:
        """`networks` are addresses or CIDR blocks, with commas between. Raises Misconfigured."""
        try:
            self._networks: list[IPv4Network | IPv6Network] = [
                ip_network(one.strip(), strict=False) for one in networks.split(",") if one.strip()
            ]
        except ValueError as error:
            raise Misconfigured(f"trusted_proxies: {error}") from error

    def client(self, peer: str, forwarded: Sequence[str] = ()) -> str:
        """Who asks: the name of the bucket of his address, empty for our own machinery.

        `forwarded` is X-Forwarded-For, split: every proxy appends whom it saw, so it is read from the right, and only as far as the proxies
        are ours. What stands left of that anybody may have written.
        """
        seen = [*(one.strip() for one in forwarded), peer]
        for one in reversed(seen):
            address = _address(one)
            if address is None:
                return one[:64]  # no address at all: one bucket for each spelling that a proxy of ours passed on
            if not any(address in network for network in self._networks):
                return bucket_of(address)
        return ""


def bucket_of(address: IPv4Address | IPv6Address) -> str:
    """The address; of IPv6 the /64 block, which is what one subscriber gets."""
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)


def host_of(peer: str) -> str:
    """The host in gRPC's name of a peer: `ipv4:HOST:PORT` or `ipv6:%5BHOST%5D:PORT`."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in `text`, which some proxies write with the port: each connection has another, and is the same caller."""
    for host in (text, text.strip("[]"), text.rpartition(":")[0].strip("[]")):
        try:
            address = ip_address(host)
        except ValueError:
            continue
        return getattr(address, "ipv4_mapped", None) or address
    return None
