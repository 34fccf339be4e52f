"""BERT with a classification head, under the tensor names of transformers' BertForSequenceClassification. Knows no weights.

A process that serves or trains it imports nothing of transformers' modelling code, which takes seconds and more than 200 MB, and
computes the same numbers. There is no dropout. Everything but attention is computed on tokens alone, never on padding, and the last layer
for the first token of each text alone, which is all that the head reads: for short texts of mixed length that is about half the work.

Shapes: B texts, T tokens in the longest, N tokens in all of them, C channels, H heads.
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
        """Logits for tokens [B, T]; padding, at the end of a text, is where `attention_mask` [B, T] is 0, nowhere when it is None."""
        return Output(self.classifier(self.bert(input_ids, attention_mask)))


class _Packing:
    """Between a padded batch, which attention needs, and its tokens alone."""

    def __init__(self, tokens_BT: Tensor, mask_BT: Tensor | None) -> None:
        self._shape = tokens_BT.shape
        places_BT = torch.arange(tokens_BT.numel(), device=tokens_BT.device).view_as(tokens_BT)
        self._places_N = places_BT.flatten() if mask_BT is None else places_BT[mask_BT.bool()]
        self.tokens_N = tokens_BT.flatten()[self._places_N]
        self.positions_N = self._places_N % self._shape[1]
        self.first_B = (self.positions_N == 0).nonzero().flatten()
        self.seen_B11T = None if mask_BT is None else mask_BT[:, None, None, :].bool()

    def pad(self, rows_NC: Tensor) -> Tensor:
        """[N, C] to [B, T, C], zeros where there is padding."""
        if self.seen_B11T is None:
            return rows_NC.view(*self._shape, -1)
        padded = rows_NC.new_zeros(self._shape.numel(), rows_NC.shape[1]).index_copy(0, self._places_N, rows_NC)
        return padded.view(*self._shape, -1)

    def pack(self, rows_BTC: Tensor) -> Tensor:
        """[B, T, C] to [N, C]."""
        rows = rows_BTC.flatten(0, 1)
        return rows if self.seen_B11T is None else rows[self._places_N]


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
        packing = _Packing(tokens_BT, mask_BT)
        hidden_NC = self.embeddings(packing)
        *layers, last = self.encoder["layer"].children()
        for layer in layers:
            hidden_NC = layer(hidden_NC, packing)
        return torch.tanh(self.pooler["dense"](last(hidden_NC, packing, first_only=True)))


class _Embeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.word_embeddings = _Embedding(config["vocab_size"], width)
        self.position_embeddings = _Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = _Embedding(config["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, packing: _Packing) -> Tensor:
        words_NC = self.word_embeddings(packing.tokens_N) + self.token_type_embeddings.weight[0]
        normed_NC: Tensor = self.LayerNorm(words_NC + self.position_embeddings(packing.positions_N))
        return normed_NC


class _Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = nn.ModuleDict({"dense": _Linear(config["hidden_size"], config["intermediate_size"])})
        self.output = _Projection(config, config["intermediate_size"])

    def forward(self, hidden_NC: Tensor, packing: _Packing, *, first_only: bool = False) -> Tensor:
        """[N, C], or [B, C] for the first token of each text alone."""
        hidden = self.attention(hidden_NC, packing, first_only=first_only)
        joined: Tensor = self.output(F.gelu(self.intermediate["dense"](hidden)), hidden)
        return joined


class _Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Projection(config, config["hidden_size"])

    def forward(self, hidden_NC: Tensor, packing: _Packing, *, first_only: bool) -> Tensor:
        asking = hidden_NC[packing.first_B] if first_only else hidden_NC
        joined: Tensor = self.output(self.self(asking, hidden_NC, packing, first_only=first_only), asking)
        return joined


class _SelfAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config["hidden_size"]
        self._heads: int = config["num_attention_heads"]
        self.query, self.key, self.value = _Linear(width, width), _Linear(width, width), _Linear(width, width)

    def forward(self, asking: Tensor, hidden_NC: Tensor, packing: _Packing, *, first_only: bool) -> Tensor:
        query = self.query(asking)
        query_BQC = query[:, None] if first_only else packing.pad(query)
        key_BTC, value_BTC = packing.pad(self.key(hidden_NC)), packing.pad(self.value(hidden_NC))
        query_BHQD, key_BHTD, value_BHTD = (self._by_head(rows) for rows in (query_BQC, key_BTC, value_BTC))
        found_BHQD = F.scaled_dot_product_attention(query_BHQD, key_BHTD, value_BHTD, attn_mask=packing.seen_B11T)
        found_BQC = found_BHQD.transpose(1, 2).flatten(2)
        return found_BQC[:, 0] if first_only else packing.pack(found_BQC)

    def _by_head(self, rows_BQC: Tensor) -> Tensor:
        return rows_BQC.view(*rows_BQC.shape[:2], self._heads, -1).transpose(1, 2)


class _Projection(nn.Module):
    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.dense = _Linear(size, config["hidden_size"])
        self.LayerNorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])

    def forward(self, new: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(new) + residual)
        return normed
