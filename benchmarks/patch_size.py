"""Prints how large patches are, as bit-pattern differences and as new values, after steps like AdamW's. Knows the codec, no model.

    .venv/bin/python benchmarks/patch_size.py

11 million weights of the spread of a transformer's layers take AdamW steps (b1 0.9, b2 0.999) on noisy gradients of very different sizes;
what is served is their running mean (decay 0.9), rounded to bf16. The figures are of the patch from the step before, after 20 steps.
"""

from __future__ import annotations

import numpy as np
import zstandard
from numpy.typing import NDArray

from liveloop.weights.patch import Bits, difference, encode_changes

WEIGHTS, STEPS = 11_000_000, 20
_Floats = NDArray[np.float32]


def served_versions(learning_rate: float) -> tuple[Bits, Bits]:
    """The bf16 bit patterns served before and after the last step."""
    rng = np.random.default_rng(0)
    master = rng.standard_normal(WEIGHTS, dtype=np.float32) * np.float32(0.05)
    scale = np.exp(2 * rng.standard_normal(WEIGHTS, dtype=np.float32))  # gradients differ by orders of magnitude between weights
    drift = rng.standard_normal(WEIGHTS, dtype=np.float32) * np.float32(0.3)  # what the gradients of successive steps share
    served, first, second = master.copy(), np.zeros_like(master), np.zeros_like(master)
    before = bf16(served)
    for step in range(1, STEPS + 1):
        gradient = scale * (drift + rng.standard_normal(WEIGHTS, dtype=np.float32))
        first += np.float32(0.1) * (gradient - first)
        second += np.float32(0.001) * (gradient * gradient - second)
        bias = np.float32(np.sqrt(1 - 0.999**step) / (1 - 0.9**step))
        master -= np.float32(learning_rate) * (bias * first / (np.sqrt(second) + np.float32(1e-8)) + np.float32(0.01) * master)
        before = bf16(served)
        served = np.float32(0.9) * served + np.float32(0.1) * master
    return before, bf16(served)


def bf16(values: _Floats) -> Bits:
    """Bit patterns of the nearest bf16 numbers, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def zstd(values: NDArray[np.uint16]) -> int:
    """Bytes of the low and the high bytes, each as a stream of its own: how the codec stores its values."""
    return sum(len(zstandard.compress(half.astype(np.uint8).tobytes(), 1)) for half in (values & 0xFF, values >> 8))


def main() -> None:
    """Print one line a learning rate."""
    print("learning rate  changed     by one ulp  differences  new values  whole patch  with new values  ratio")
    for learning_rate in (2e-5, 5e-5, 1e-4):
        before, after = served_versions(learning_rate)
        positions, deltas = difference(before, after, start=0)
        patch = sum(len(part) for part in encode_changes(positions, deltas, start=0))
        zigzag = (deltas << 1) ^ np.negative(deltas >> 15)
        differences, values = zstd(zigzag), zstd(after[positions])
        raw = patch - differences + values
        one = np.mean(zigzag <= 2)
        sizes = f"{differences:12,} {values:11,} {patch:12,} {raw:16,} {patch / raw:6.2f}"
        print(f"{learning_rate:13.0e}  {len(positions) / WEIGHTS:7.2%} {one:13.2%} {sizes}")


if __name__ == "__main__":
    main()
