"""How a pod gets from its version to the head's: along patches, or over a keyframe. Knows manifests; fetches no patch and no chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from liveloop.errors import BlobMissing
from liveloop.v1.weights_pb2 import Manifest
from liveloop.weights.records import Records, missing_chunks
from liveloop.weights.state import FlatState, chunk_of

_WALK = 64
"""Versions before the head's chain that are looked at: further back a keyframe is fewer bytes."""


@dataclass(frozen=True, slots=True)
class Route:
    """The way to the head's current version."""

    newer: list[Manifest]  # the versions after the pod's own, oldest first, as far as the store still has them
    by_patches: bool  # their patches lead there, and are fewer bytes than a keyframe


def find_route(records: Records, line: Sequence[Manifest], version: int, state: FlatState) -> Route:
    """The way from `version`, whose bits are `state`, to the end of `line`, the head's chain.

    Raises:
        WeightsRefused, Unavailable: a manifest cannot be read.
    """
    steps = list(line)
    while steps[0].version > version and steps[0].parent_manifest and len(steps) < len(line) + _WALK:
        try:
            steps.insert(0, records.manifest(steps[0].parent_manifest))
        except BlobMissing:
            break  # collected
    newer = [manifest for manifest in steps if manifest.version > version]
    unbroken = any(manifest.version == version and manifest.state_digest == state.digest for manifest in steps)
    return Route(newer, unbroken and (len(newer) < len(line) or _patches_are_fewer(records, line, newer, state)))


def _patches_are_fewer(records: Records, line: Sequence[Manifest], newer: Sequence[Manifest], state: FlatState) -> bool:
    chunks = missing_chunks(records.keyframe(line[0]), state)
    keyframe = sum(chunk_of(state.bits, chunk).nbytes for chunk in chunks) + sum(manifest.patch_bytes for manifest in line[1:])
    return sum(manifest.patch_bytes for manifest in newer) <= keyframe
