"""Small models and their versions, for the tests of weights in motion. Knows no store."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from liveloop.v1.weights_pb2 import Layout, ModelBundle, TensorSpec
from liveloop.weights.patch import CHUNK, Bits, encode, joined
from liveloop.weights.publisher import Publisher
from liveloop.weights.store import WeightStore

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TOTAL, FROZEN = 2 * CHUNK + 1000, CHUNK + 500


def layout(total: int = TOTAL, frozen: int = FROZEN) -> Layout:
    tensors = [TensorSpec(name="embeddings", shape=[frozen], offset=0), TensorSpec(name="rest", shape=[total - frozen], offset=frozen)]
    return Layout(format=1, frozen=frozen, total=total, tensors=tensors)


def bundle(total: int = TOTAL, frozen: int = FROZEN, *, model: str = "sample") -> ModelBundle:
    files = {"config.json": b"{}", "tokenizer.json": b"{}"}
    return ModelBundle(format=1, task="classification", model=model, labels=["no", "yes"], layout=layout(total, frozen), files=files)


def finite_bits(seed: int = 0, total: int = TOTAL) -> Bits:
    """The bit patterns of normally distributed bf16 numbers."""
    values = np.random.default_rng(seed).standard_normal(total, dtype=np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def step(bits: Bits, seed: int, *, changes: int = 300, frozen: int = FROZEN) -> Bits:
    """What an optimiser step makes of `bits`: some values that are not frozen move by one unit in the last place."""
    rng = np.random.default_rng(seed)
    positions = rng.choice(np.arange(frozen, len(bits)), changes, replace=False)
    changed = bits.copy()
    changed[positions] = np.where(rng.random(changes) < 0.5, changed[positions] - 1, changed[positions] + 1)
    return changed


def patch_of(old: Bits, new: Bits) -> list[bytes]:
    """The parts of the patch from `old` to `new`."""
    starts = range(0, len(old), CHUNK)
    return joined(frame for at in starts for frame in encode(old[at : at + CHUNK], new[at : at + CHUNK], start=at).frames)


def chunks_that_differ(old: Bits, new: Bits) -> list[int]:
    """The chunks of a state in which two versions differ."""
    return np.unique(np.flatnonzero(old != new) // CHUNK).tolist()


class Versions:
    """A publisher and every version that it published."""

    def __init__(self, store: WeightStore, *, model: str = "sample", epoch: int = 1) -> None:
        self.publisher = Publisher.first(store, KEY, bundle(model=model), finite_bits())
        if epoch > 1:
            self.publisher = Publisher(store, KEY, epoch=epoch)
        self.bits: dict[int, Bits] = {1: finite_bits()}
        self.manifests: dict[int, str] = {1: self.publisher.head.chain[0].manifest}

    @property
    def current(self) -> int:
        return self.publisher.head.current

    def publish(self, version: int = 0, *, bits: Bits | None = None, changes: int = 300) -> int:
        """Publish `bits`, by default one step on, as `version`, by default the next."""
        version = version or self.current + 1
        bits = step(self.bits[self.current], version, changes=changes) if bits is None else bits
        staged = self.publisher.stage(bits)
        published = self.publisher.publish(staged, version=version, step=version, included=[float(version)], created_at=1e9 + version)
        self.bits[version], self.manifests[version] = bits, published.manifest
        return version
