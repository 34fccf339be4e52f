"""BERT with a classification head, under the tensor names of transformers' BertForSequenceClassification. Knows no weights.

A process that serves or trains it imports nothing of transformers' modelling code, which takes seconds and more than 200 MB, and
computes the same numbers. There is no dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Config = Mapping[str, Any]
"""A config.json."""


class Output(NamedTuple):
    """What a model answers with."""

    logits: Tensor  # [B, K]


def is_bert(config: Config) -> bool:
    """Whether `config` describes what is built here: an encoder with learnt positions and exact GELU."""
    return (
        config["model_type"] == "bert"
        and config["hidden_act"] == "gelu"
        and config.get("position_embedding_type") in (None, "absolute")
        and not config.get("is_decoder")
        and not config.get("add_cross_attention")
    )


class Bert(nn.Module):
    """Devlin et al. (2018), arXiv 1810.04805."""

    def __init__(self, config: Config, labels: int) -> None:
        super().__init__()
        self.bert = _Encoder(config)
        self.classifier = _Linear(config["hidden_size"], labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Output:
        """Logits for tokens [B, T]; padding is where `attention_mask` [B, T] is 0, nowhere when it is None."""
        return Output(self.classifier(self.bert(input_ids, attention_mask)))


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Leave the weights as they are: they come from elsewhere, and random ones on the meta device need torch's compiler imported."""


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """As `_Linear`."""


class _Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(config["num_hidden_layers"]))})
        self.pooler = nn.ModuleDict({"dense": _Linear(config["hidden_size"], config["hidden_size"])})

    def forward(self, tokens_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
        seen_B11T = None if mask_BT is None else mask_BT[:, None, None, :].bool()
        hidden_BTC = self.embeddings(tokens_BT)
        for layer in self.encoder["layer"].children():
            hidden_BTC = layer(hidden_BTC, seen_B11T)
        return torch.tanh(self.pooler["dense"](hidden_BTC[:, 0]))


class _Embeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.word_embeddings = _Embedding(config["vocab_size"], width)
        self.position_embeddings = _Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = _Embedding(config["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, tokens_BT: Tensor) -> Tensor:
        words_BTC = self.word_embeddings(tokens_BT) + self.token_type_embeddings.weight[0]
        normed_BTC: Tensor = self.LayerNorm(words_BTC + self.position_embeddings.weight[: tokens_BT.shape[1]])
        return normed_BTC


class _Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = nn.ModuleDict({"dense": _Linear(config["hidden_size"], config["intermediate_size"])})
        self.output = _Projection(config, config["intermediate_size"])

    def forward(self, hidden_BTC: Tensor, seen_B11T: Tensor | None) -> Tensor:
        hidden_BTC = self.attention(hidden_BTC, seen_B11T)
        joined_BTC: Tensor = self.output(F.gelu(self.intermediate["dense"](hidden_BTC)), hidden_BTC)
        return joined_BTC


class _Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Projection(config, config["hidden_size"])

    def forward(self, hidden_BTC: Tensor, seen_B11T: Tensor | None) -> Tensor:
        joined_BTC: Tensor = self.output(self.self(hidden_BTC, seen_B11T), hidden_BTC)
        return joined_BTC


class _SelfAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config["hidden_size"]
        self._heads: int = config["num_attention_heads"]
        self.query, self.key, self.value = _Linear(width, width), _Linear(width, width), _Linear(width, width)

    def forward(self, hidden_BTC: Tensor, seen_B11T: Tensor | None) -> Tensor:
        query, key, value = (
            part(hidden_BTC).unflatten(-1, (self._heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen_B11T).transpose(1, 2).flatten(2)


class _Projection(nn.Module):
    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.dense = _Linear(size, config["hidden_size"])
        self.LayerNorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])

    def forward(self, new_BTN: Tensor, residual_BTC: Tensor) -> Tensor:
        normed_BTC: Tensor = self.LayerNorm(self.dense(new_BTN) + residual_BTC)
        return normed_BTC
