"""What would change if new bits were published. Knows a state and new bits; writes nothing and knows no store."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from liveloop.errors import WeightsRefused
from liveloop.v1.weights_pb2 import Layout
from liveloop.weights.patch import CHUNK, Bits, Change, encode, joined
from liveloop.weights.state import FlatState, chunk_count, digest_chunks

_THREADS = min(4, os.cpu_count() or 1)
"""Chunks worked on at once: numpy, zstd and blake3 let other threads run meanwhile."""

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
    changes: tuple[Change, ...]  # of the chunks that change
    chunk_digests: bytes


def stage(state: FlatState, bits: Bits, layout: Layout) -> Staged:
    """Compare `bits` (uint16, [layout.total]) with `state`; chunks of nothing but frozen values are not looked at.

    Raises:
        WeightsRefused: a value that changed is not finite.
        ValueError: `bits` are not of the layout's size, or a frozen value changed.
    """
    check_size(bits, layout)
    frozen, boundary = layout.frozen, layout.frozen // CHUNK
    if not np.array_equal(bits[boundary * CHUNK : frozen], state.bits[boundary * CHUNK : frozen]):
        raise ValueError("a frozen value changed")
    digests = bytearray(state.chunk_digests)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="stage") as pool:
        chunks = range(boundary, chunk_count(layout.total))
        found = list(pool.map(lambda chunk: _stage_chunk(state.bits, bits, max(chunk * CHUNK, frozen), digests), chunks))
    changes = tuple(change for change in found if change.frames)
    parts = tuple(joined(frame for change in changes for frame in change.frames))
    return Staged(
        digest=blake3(digests).digest(),
        changed=sum(len(change.positions) for change in changes),
        patch_bytes=sum(len(part) for part in parts),
        parent_digest=state.digest,
        parts=parts,
        changes=changes,
        chunk_digests=bytes(digests),
    )


def _stage_chunk(old: Bits, new: Bits, start: int, digests: bytearray) -> Change:
    """How a chunk changes from `start` on; its digest is brought up to date."""
    chunk = start // CHUNK
    end = (chunk + 1) * CHUNK
    change = encode(old[start:end], new[start:end], start=start)
    if change.frames:
        check_finite(change.values)
        digest_chunks(new, [chunk], digests)
    return change


def check_size(bits: Bits, layout: Layout) -> None:
    """Raises ValueError when `bits` are not the flat state of this layout."""
    if bits.dtype != np.uint16 or bits.shape != (layout.total,) or not bits.flags.c_contiguous:
        raise ValueError(f"a state of this layout is a contiguous array of {layout.total} uint16, not {bits.dtype} {bits.shape}")


def check_finite(values: Bits) -> None:
    """Raises WeightsRefused when a bf16 bit pattern is an infinity or not a number."""
    if ((values & _EXPONENT) == _EXPONENT).any():
        raise WeightsRefused("a weight is not finite: it is never published")
