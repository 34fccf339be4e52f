"""Low-rank adapters beside a model's linear layers, unmerged, under peft's tensor names. Chooses no layer and no rank.

y = base_layer(x) + alpha / rank * lora_B(lora_A(x))            Hu et al. (2021), arXiv 2106.09685
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ADAPTER_FILE = "adapter_config.json"
"""In a bundle, how its model is adapted; the name and the keys are peft's."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """Which layers are adapted, and how."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # last names of the adapted layers: "query" is every layer called query

    @classmethod
    def from_json(cls, content: bytes) -> Adapter:
        """Read what `to_json` wrote."""
        config = json.loads(content)
        return cls(config["r"], config["lora_alpha"], tuple(config["target_modules"]))

    def to_json(self) -> bytes:
        """As peft's adapter_config.json."""
        config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": self.rank, "lora_alpha": self.alpha}
        return json.dumps({**config, "target_modules": list(self.targets)}, sort_keys=True).encode()


class LoraLinear(nn.Module):
    """A linear layer and its adapter. The values of both come from elsewhere."""

    def __init__(self, base: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        inputs, outputs = widths(base)
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": _Factor(adapter.rank, inputs)})
        self.lora_B = nn.ModuleDict({"default": _Factor(outputs, adapter.rank)})
        self._scale = adapter.alpha / adapter.rank

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        added: Tensor = self.base_layer(x) + self._scale * self.lora_B["default"](self.lora_A["default"](x))
        return added


class _Factor(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def is_linear(module: nn.Module) -> bool:
    """Whether `module` is a linear layer, transformers' Conv1D too."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def widths(linear: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer; Conv1D keeps its weight the other way round."""
    rows, columns = linear.weight.shape  # type: ignore[misc]
    return (int(columns), int(rows)) if isinstance(linear, nn.Linear) else (int(rows), int(columns))


def adapt(model: nn.Module, adapter: Adapter) -> None:
    """Put an adapter beside every target of `model`, in place."""
    for name, module in list(model.named_modules()):
        owner, _, last = name.rpartition(".")
        if last in adapter.targets and is_linear(module):
            setattr(model.get_submodule(owner), last, LoraLinear(module, adapter))


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Begin as peft does: A uniform, B zero, so that the adapters change nothing yet."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            nn.init.kaiming_uniform_(module.lora_A["default"].weight, a=math.sqrt(5))  # type: ignore[arg-type]
            nn.init.zeros_(module.lora_B["default"].weight)  # type: ignore[arg-type]
