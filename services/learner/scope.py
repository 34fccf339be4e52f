"""What of a model is trained: read from one word, found in the model. Knows transformers' conventions for names; trains nothing.

all              every tensor
no-embeddings    all but the word-embedding table: the default
last-N           the last N layers, what comes after them, and the head
head             the classification head
lora-R           low-rank adapters of rank R on the attention's query and value projections, and the head
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from liveloop.errors import Misconfigured
from liveloop.tasks.lora import Adapter, adapt, initialise, is_linear, widths

SCOPE_FILE = "scope"
"""In a bundle, the scope that its layout was made for."""

DEFAULT = "no-embeddings"

_PATTERN = re.compile(r"(all|no-embeddings|head)|(last|lora)-([1-9][0-9]{0,5})")

_ALPHA = 2
"""alpha / rank: the strength that an adapter's change is added with, whatever its rank."""

_PROJECTIONS = (
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("c_attn",),
    ("query_key_value",),
    ("qkv_proj",),
    ("Wqkv",),
    ("in_proj",),
)
"""What families call the query and value projections; a name alone is one layer that computes both."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of any model."""

    kind: str
    number: int = 0  # N of last-N, R of lora-R

    def __str__(self) -> str:
        return f"{self.kind}-{self.number}" if self.number else self.kind


def parse(text: str) -> Scope:
    """The scope named by `text`, the default where it is empty. Raises Misconfigured."""
    found = _PATTERN.fullmatch(text or DEFAULT)
    if not found:
        raise Misconfigured(f"the scope {text!r} is none of all, no-embeddings, last-N, head and lora-R, with a whole number for N and R")
    return Scope(found[1] or found[2], int(found[3] or 0))


def add_adapter(scope: Scope, model: Any) -> Adapter | None:
    """Put what the scope trains and a checkpoint lacks into the transformers `model`: for lora-R its adapters. Raises Misconfigured."""
    if scope.kind != "lora":
        return None
    linear = [(name.rpartition(".")[2], module) for name, module in _body(model).named_modules() if is_linear(module)]
    targets = next((names for names in _PROJECTIONS if set(names) <= {name for name, _ in linear}), None)
    if targets is None:
        raise Misconfigured(f"the query and value projections of {_kind(model)} are not found: train it with another scope than {scope}")
    narrowest = min(min(widths(module)) for name, module in linear if name in targets)
    if scope.number >= narrowest:
        raise Misconfigured(f"the scope {scope} is not of a lower rank than the model's own projections, {narrowest}")
    adapter = Adapter(scope.number, _ALPHA * scope.number, targets)
    adapt(model, adapter)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        initialise(model)
    return adapter


def frozen_names(scope: Scope, model: Any) -> frozenset[str]:
    """The parameters of the transformers `model`, adapters and all, that are not trained. Raises Misconfigured."""
    if scope.kind == "all":
        return frozenset()
    if scope.kind == "no-embeddings":
        table = model.get_input_embeddings().weight
        return frozenset(name for name, parameter in model.named_parameters() if parameter is table)
    body, trained = _body(model), set[int]()
    if scope.kind == "last":
        trained = {id(parameter) for module in _end(scope, model, body) for parameter in module.parameters()}
    elif scope.kind == "lora":
        trained = {id(parameter) for name, parameter in body.named_parameters() if ".lora_" in name}
    frozen = {id(parameter) for parameter in body.parameters()} - trained
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in frozen)


def _body(model: Any) -> nn.Module:
    """The model without its head."""
    body: nn.Module = model.base_model
    if body is model:
        raise Misconfigured(f"the head of {_kind(model)} cannot be told from its body: use the scope all or no-embeddings")
    return body


def _end(scope: Scope, model: Any, body: nn.Module) -> list[nn.Module]:
    """The last N layers, and the parts of the body that come after the one that holds the layers: a pooler, a last norm."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [(name, module) for name, module in body.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    outermost = [(name, module) for name, module in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    if len(outermost) != 1:
        raise Misconfigured(f"the layers of {_kind(model)} are not in one list of their own: train it with another scope than {scope}")
    ((path, layers),) = outermost
    if scope.number > len(layers):
        raise Misconfigured(f"the scope {scope} asks for more layers than the model's {len(layers)}")
    parts = dict(body.named_children())
    after = list(parts.values())[list(parts).index(path.partition(".")[0]) + 1 :]
    return [*layers[-scope.number :], *after]


def _kind(model: Any) -> str:
    return f"this {model.config.model_type} model"
