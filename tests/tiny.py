"""A BERT of a few thousand random weights with a tokenizer of its own: a whole model for tests, made in milliseconds. Knows no service."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification

from liveloop.tasks.flat import flatten, layout_of
from liveloop.v1.weights_pb2 import ModelBundle

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("a", "an", "bad", "boring", "dull", "film", "fine", "good", "great", "is", "it", "movie", "not", "of", "the", "this", "was")


def tiny_bundle(
    labels: Sequence[str] = ("negative", "positive"), *, max_tokens: int = 32, hidden: int = 32, seed: int = 0
) -> tuple[ModelBundle, np.ndarray]:
    """A model bundle and its flat state as bf16 bit patterns (uint16, [layout.total]); the word embeddings are frozen."""
    tokenizer = _tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=max_tokens,
        initializer_range=0.2,  # wide, so that random weights give answers that differ
        id2label=dict(enumerate(labels)),
        architectures=["BertForSequenceClassification"],
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    layout = layout_of(model, frozen=lambda name: "word_embeddings" in name)
    bundle = ModelBundle(format=1, task="classification", model="tiny", labels=labels, max_tokens=max_tokens, layout=layout)
    bundle.files["config.json"] = json.dumps(config.to_dict()).encode()
    bundle.files["tokenizer.json"] = tokenizer.to_str().encode()
    return bundle, flatten(model, layout).to(torch.bfloat16).view(torch.uint16).numpy()


def _tokenizer() -> Tokenizer:
    pieces = [*_SPECIAL, *dict.fromkeys([*string.ascii_lowercase, *string.digits, *string.punctuation, *_WORDS])]
    pieces += [f"##{letter}" for letter in string.ascii_lowercase + string.digits]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer
