"""Where every tensor lies in the flat state, and the digest of that table. Knows shapes and offsets, not what the tensors are for."""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

from liveloop.errors import WrongLayout
from liveloop.v1.weights_pb2 import Layout


def layout_digest(layout: Layout) -> bytes:
    """blake3 of the layout's deterministic serialisation, 32 bytes."""
    return blake3(layout.SerializeToString(deterministic=True)).digest()


def check_layout(layout: Layout) -> None:
    """Check that the tensors lie one after the other, under distinct names, and that none is half frozen.

    Raises:
        WrongLayout: they do not.
    """
    if layout.format != 1:
        raise WrongLayout(f"this build reads layouts of format 1, not {layout.format}")
    offset, boundaries = 0, {0}
    for spec in layout.tensors:
        if spec.offset != offset:
            raise WrongLayout(f"the tensor {spec.name!r} does not begin where the one before it ends")
        offset += _elements(spec.shape, layout.total)
        boundaries.add(offset)
    if offset == 0 or offset != layout.total:
        raise WrongLayout(f"the tensors hold {offset} elements, the layout says {layout.total}")
    if layout.frozen not in boundaries:
        raise WrongLayout("the frozen part does not end between two tensors")
    if len({spec.name for spec in layout.tensors}) != len(layout.tensors):
        raise WrongLayout("two tensors have the same name")


def _elements(shape: Sequence[int], limit: int) -> int:
    """Elements of a tensor. Raises WrongLayout beyond `limit`, before the product grows to a number that takes minutes."""
    count = 1
    for size in shape:
        count *= size
        if count > limit:
            raise WrongLayout(f"a tensor holds more than the {limit} elements of its layout")
    return count
