"""What would change if new bits were published. Knows a state and new bits; writes nothing and knows no store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from liveloop.errors import WeightsRefused
from liveloop.v1.weights_pb2 import Layout
from liveloop.weights.patch import Bits, Positions, difference, encode_changes
from liveloop.weights.state import FlatState

_EXPONENT = 0x7F80
"""All ones in a bf16 number that is infinite or not a number."""


@dataclass(frozen=True, slots=True)
class Staged:
    """The difference between a state and new bits, ready to be published."""

    digest: bytes  # state digest of the new bits
    changed: int  # values that differ
    patch_bytes: int
    parent_digest: bytes  # state digest of what they were compared with
    parts: tuple[bytes, ...]
    positions: Positions
    values: Bits  # the new bit patterns at `positions`
    chunk_digests: bytes


def stage(state: FlatState, bits: Bits, layout: Layout) -> Staged:
    """Compare `bits` (uint16, [layout.total]) with `state`.

    Raises:
        WeightsRefused: a value that changed is not finite.
        ValueError: `bits` are not of the layout's size, or a frozen value changed.
    """
    check_size(bits, layout)
    frozen = layout.frozen
    if not np.array_equal(bits[:frozen], state.bits[:frozen]):
        raise ValueError("a frozen value changed")
    positions, deltas = difference(state.bits, bits, start=frozen)
    values = bits[positions]
    check_finite(values)
    parts = tuple(encode_changes(positions, deltas, start=frozen))
    chunk_digests = state.digests_with(bits, positions)
    return Staged(
        digest=blake3(chunk_digests).digest(),
        changed=len(positions),
        patch_bytes=sum(len(part) for part in parts),
        parent_digest=state.digest,
        parts=parts,
        positions=positions,
        values=values,
        chunk_digests=chunk_digests,
    )


def check_size(bits: Bits, layout: Layout) -> None:
    """Raises ValueError when `bits` are not the flat state of this layout."""
    if bits.dtype != np.uint16 or bits.shape != (layout.total,) or not bits.flags.c_contiguous:
        raise ValueError(f"a state of this layout is a contiguous array of {layout.total} uint16, not {bits.dtype} {bits.shape}")


def check_finite(values: Bits) -> None:
    """Raises WeightsRefused when a bf16 bit pattern is an infinity or not a number."""
    if ((values & _EXPONENT) == _EXPONENT).any():
        raise WeightsRefused("a weight is not finite: it is never published")
