"""One recording's patches: bytes and milliseconds, beside the baselines. Knows the codec and the publisher; knows no pod and no network."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.baselines import encode_sparse_values, encode_xor, floor_bytes
from liveloop.tasks.flat import narrow, widen
from liveloop.v1.weights_pb2 import ModelBundle
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.patch import Bits
from liveloop.weights.publisher import Publisher
from liveloop.weights.state import FlatState


@dataclass(slots=True)
class _Clocks:
    """Milliseconds of each stage of each version: as the clock on the wall says, and as the processor was busy with all threads."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    busy: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        wall, busy = time.perf_counter(), time.process_time()
        yield
        self.wall.setdefault(stage, []).append(1e3 * (time.perf_counter() - wall))
        self.busy.setdefault(stage, []).append(1e3 * (time.process_time() - busy))

    def medians(self) -> dict[str, float]:
        """`diff_encode` is what a version costs before it can be published: cast, diff, encode and digest."""
        sums = {"diff_encode": ("cast", "stage"), "publish": ("publish",), "apply": ("apply",)}
        clocks = {"ms": self.wall, "cpu_ms": self.busy}
        return {
            f"{name}_{unit}": round(sum(median(found[stage]) for stage in stages), 1)
            for unit, found in clocks.items()
            for name, stages in sums.items()
        }


def measure_patches(bundle: ModelBundle, versions: Sequence[Bits]) -> dict[str, Any]:
    """Medians over the patches from each of `versions` ([layout.total] each) to the next, published into a folder."""
    layout, clocks = bundle.layout, _Clocks()
    trainable = layout.total - layout.frozen
    sizes: list[dict[str, float]] = []
    with (
        TemporaryDirectory(prefix="liveloop-bench-") as folder,
        DirectoryStore(Path(folder)) as store,
        Publisher.first(store, Ed25519PrivateKey.generate(), bundle, versions[0]) as publisher,
    ):
        pod = FlatState(versions[0].copy())
        for version, (old, new) in enumerate(pairwise(versions), start=2):
            average, now = widen(new[layout.frozen :]), time.time()
            with clocks.time("cast"):
                narrow(average)
            with clocks.time("stage"):
                staged = publisher.stage(new)
            with clocks.time("publish"):
                publisher.publish(staged, version=version, step=version, included=[now], created_at=now)
            with clocks.time("apply"):
                pod.apply_chain([staged.parts], staged.digest)
            sizes.append(
                {
                    "changed": staged.changed,
                    "patch_bytes": staged.patch_bytes,
                    "floor_bytes": floor_bytes(trainable, staged.changed),
                    "pulse_bytes": len(encode_sparse_values(old, new)),
                    "xor_zstd_bytes": len(encode_xor(old, new)),
                }
            )
    found = {name: round(median(size[name] for size in sizes)) for name in sizes[0]}
    return {"trainable": trainable, **found, "full_fp32_bytes": 4 * layout.total, **clocks.medians()}
