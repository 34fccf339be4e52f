"""One flat buffer as a model's memory: every parameter and float buffer is a view into it. Knows torch, not what the model is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import torch

from liveloop.errors import WrongLayout
from liveloop.v1.weights_pb2 import Layout, TensorSpec


def float_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, then the floating-point buffers of a checkpoint; tied ones once, under their first name.

    A buffer that no checkpoint holds (a table of rotations, of positions) is no weight: every process computes it from the configuration,
    and bf16 would spoil it.
    """
    yield from model.named_parameters()
    kept = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point() and name in kept)


def layout_of(model: torch.nn.Module, *, frozen: Callable[[str], bool]) -> Layout:
    """Where each tensor of `model` lies: those whose name is `frozen` first, otherwise in the model's own order.

    Buffers are frozen, and so are parameters that the model itself does not train.
    """
    tensors = [(name, tuple(tensor.shape), not tensor.requires_grad or frozen(name)) for name, tensor in float_tensors(model)]
    layout = Layout(format=1)
    offset = 0
    for is_frozen in (True, False):
        for name, shape, belongs in tensors:
            if belongs is is_frozen:
                layout.tensors.append(TensorSpec(name=name, shape=shape, offset=offset))
                offset += prod(shape)
        if is_frozen:
            layout.frozen = offset
    layout.total = offset
    return layout


def flatten(model: torch.nn.Module, layout: Layout) -> torch.Tensor:
    """A copy of the model's tensors as one fp32 buffer, [layout.total]."""
    flat = torch.empty(layout.total, dtype=torch.float32)
    tensors = dict(float_tensors(model))
    for spec in layout.tensors:
        _view(flat, spec).copy_(tensors[spec.name].detach())
    return flat


def bind(
    model: torch.nn.Module,
    layout: Layout,
    flat: torch.Tensor,
    gradients: torch.Tensor | None = None,
    *,
    trained: torch.Tensor | None = None,
) -> None:
    """Make `model` compute from `flat` ([layout.total]), in evaluation mode: dropout is off, in training too.

    With `gradients` ([layout.total - layout.frozen]) the tensors that are not frozen accumulate their gradients into it. With `trained`, of
    the same shape, they are views of that instead: two models share what is frozen.
    Raises WrongLayout when the model's tensors are not those of the layout.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in float_tensors(model)}
    if expected != {spec.name: tuple(spec.shape) for spec in layout.tensors}:
        raise WrongLayout("the model's tensors are not those of the layout: other names or shapes")
    views: dict[int, torch.Tensor] = {}
    old = dict(float_tensors(model))
    for spec in layout.tensors:
        is_frozen = spec.offset < layout.frozen
        view = _view(flat, spec) if is_frozen or trained is None else _view(trained, spec, base=layout.frozen)
        if isinstance(old[spec.name], torch.nn.Parameter):
            trains = gradients is not None and not is_frozen
            view = torch.nn.Parameter(view, requires_grad=trains)
            if gradients is not None and trains:
                view.grad = _view(gradients, spec, base=layout.frozen)
        views[id(old[spec.name])] = view
    for module in model.modules():
        owners: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for slots in owners:
            slots.update({name: views[id(tensor)] for name, tensor in slots.items() if id(tensor) in views})
    model.eval()


def as_bf16(bits: np.ndarray) -> torch.Tensor:
    """bf16 bit patterns (uint16, [n]) as the bf16 numbers they are, [n]; not copied: `fp32.copy_(as_bf16(bits))` takes no more memory."""
    return torch.from_numpy(bits).view(torch.bfloat16)


def widen(bits: np.ndarray) -> torch.Tensor:
    """bf16 bit patterns (uint16, [n]) as fp32, [n]; exact."""
    return as_bf16(bits).float()


def narrow(values: torch.Tensor) -> np.ndarray:
    """fp32 values, [n], cast to bf16 (to nearest, ties to even), as bit patterns (uint16, [n])."""
    bits: np.ndarray = values.detach().to(torch.bfloat16).cpu().view(torch.uint16).numpy()
    return bits


def _view(flat: torch.Tensor, spec: TensorSpec, base: int = 0) -> torch.Tensor:
    start = spec.offset - base
    return flat[start : start + prod(spec.shape)].view(tuple(spec.shape))
