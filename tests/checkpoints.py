"""Transformers folders of several families with a few thousand random weights each, written by transformers itself. Knows no service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tests.tiny import tiny_bundle

_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
_DECODER = {**_ENCODER, "num_key_value_heads": 1, "head_dim": 16}

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "bert": _ENCODER,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    "roberta": {**_ENCODER, "pad_token_id": 1},
    "electra": {**_ENCODER, "embedding_size": 16},
    "albert": {**_ENCODER, "embedding_size": 16},
    "deberta-v2": {**_ENCODER, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "modernbert": {**_ENCODER, "global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 2, "sep_token_id": 3},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": _DECODER,
    "qwen2": _DECODER,
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    "ibert": _ENCODER,
}
"""Model types and their sizes. The decoders have rotary or learnt positions; t5 ties its embeddings; ibert has float buffers."""


def save_family(folder: Path, family: str) -> Path:
    """A folder with a random text classifier of this family for two labels, and the tests' tokenizer."""
    bundle, _ = tiny_bundle()
    tokenizer = Tokenizer.from_str(bundle.files["tokenizer.json"].decode())
    config = AutoConfig.for_model(
        family,
        **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "initializer_range": 0.2, **FAMILIES[family]},
        vocab_size=tokenizer.get_vocab_size(),
        id2label={0: "negative", 1: "positive"},
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=32
    ).save_pretrained(folder)
    return folder
