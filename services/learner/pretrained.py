"""A transformers checkpoint turned into a model bundle and a flat state. Knows checkpoints; trains nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from liveloop.errors import Misconfigured
from liveloop.tasks.flat import flatten, layout_of
from liveloop.tasks.lora import ADAPTER_FILE
from liveloop.v1.weights_pb2 import ModelBundle
from services.learner.scope import SCOPE_FILE, add_adapter, frozen_names, parse

_MAX_TOKENS = 128
"""Tokens read of a text unless told otherwise: a few sentences, and short enough to answer and to learn from at once."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model as it came, before any training here."""

    bundle: ModelBundle
    flat: torch.Tensor  # fp32, [layout.total]
    head_kept: bool  # its classification head was trained for these labels; else the head is new and random


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for. None: as the model and the data have it."""

    labels: Sequence[str] | None = None
    data_labels: Sequence[str] = ()  # those that occur in the data
    max_tokens: int | None = None
    scope: str = ""  # what is trained, see scope.py; empty: the default
    name: str = ""  # the model's name, for people; empty: the end of its source


def load_pretrained(source: str, wanted: Wanted) -> Pretrained:
    """Load a transformers folder, or a model of this name from the Hugging Face hub. Raises Misconfigured with one sentence."""
    scope = parse(wanted.scope)
    _check_folder(source)
    config, tokenizer = _config(source), _tokenizer(source)
    model, head_there = _model(source)
    labels, head_kept = _labels(config, head_there, wanted)
    if not head_kept:
        model = _with_new_head(model, labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    model.config.pad_token_id = _pad(source, tokenizer, config)
    max_tokens = _max_tokens(tokenizer, config, wanted.max_tokens)
    _check_answers(source, model, tokenizer, max_tokens)
    adapter = add_adapter(scope, model)
    layout = layout_of(model, frozen=frozen_names(scope, model).__contains__)
    bundle = ModelBundle(
        format=1,
        task="classification",
        model=wanted.name or Path(source).name,
        labels=labels,
        max_tokens=max_tokens,
        layout=layout,
    )
    bundle.files["config.json"] = json.dumps(model.config.to_dict(), sort_keys=True).encode()
    bundle.files["tokenizer.json"] = tokenizer.backend_tokenizer.to_str().encode()
    bundle.files[SCOPE_FILE] = str(scope).encode()
    if adapter is not None:
        bundle.files[ADAPTER_FILE] = adapter.to_json()
    return Pretrained(bundle, flatten(model, layout), head_kept)


def _check_folder(source: str) -> None:
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise Misconfigured(f"{source} is not a transformers model folder: it has no config.json")
    elif path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or path.exists():
        raise Misconfigured(f"{source} is not a folder; name a transformers model folder, or a model on the Hugging Face hub")


def _config(source: str) -> Any:
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise Misconfigured(f"the model {source} cannot be loaded: {_first_line(error)}") from error


def _tokenizer(source: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise Misconfigured(f"the model {source} has no tokenizer that can be loaded ({_first_line(error)}); save one beside it") from error
    # Where the files are missing, transformers makes an empty tokenizer of special tokens alone.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise Misconfigured(f"the model {source} has no tokenizer; save the one it was trained with beside it (tokenizer.json)")
    if not getattr(tokenizer, "is_fast", False):
        raise Misconfigured(f"the tokenizer of {source} cannot be written as a tokenizer.json, which serving needs")
    return tokenizer


def _model(source: str) -> tuple[Any, bool]:
    """The model, and whether all its tensors were in the checkpoint, those of the head too."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            model, found = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise Misconfigured(f"the model {source} cannot be loaded as a text classifier from safetensors: {_first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    body = {f"{model.base_model_prefix}.{name}" for name, _ in model.base_model.named_parameters()}
    missing = set(found["missing_keys"])
    if lost := sorted(missing & body - {name for name in body if ".pooler." in name}):
        raise Misconfigured(f"the model {source} lacks {len(lost)} tensors of its body, {lost[0]} first: is its config.json the right one?")
    return model, not missing


def _labels(config: Any, head_there: bool, wanted: Wanted) -> tuple[list[str], bool]:
    """The labels in the order of the logits, and whether the checkpoint's head answers them."""
    own = [str(config.id2label[number]) for number in sorted(config.id2label)]
    unnamed = own == [f"LABEL_{number}" for number in range(len(own))]
    labels = list(wanted.labels) if wanted.labels is not None else own if head_there else sorted(set(wanted.data_labels))
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(labels):
        raise Misconfigured(
            "a classifier needs two labels or more, each once: name them with --labels a,b or give labelled data with --task-data"
        )
    if head_there and set(labels) == set(own):
        return own, True
    return labels, head_there and unnamed and len(labels) == len(own)


def _with_new_head(model: Any, labels: Sequence[str]) -> Any:
    """The same body under a fresh head for `labels`."""
    config = model.config
    config.id2label = dict(enumerate(labels))
    config.problem_type = None
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        fresh = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    fresh.base_model.load_state_dict(model.base_model.state_dict())
    return fresh


def _pad(source: str, tokenizer: Any, config: Any) -> int:
    """The configuration's own padding token first: some models count positions from it, some find the end of a text by it."""
    size = config.get_text_config().vocab_size
    for pad in (config.get_text_config().pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id):
        if pad is not None and 0 <= pad < size:
            return int(pad)
    raise Misconfigured(f"the tokenizer of {source} has neither a padding token nor an end token; give it a pad_token")


def _max_tokens(tokenizer: Any, config: Any, wanted: int | None) -> int:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 0  # below 1: as many as there are
    limit = min(int(tokenizer.model_max_length), positions if positions > 0 else 1 << 20)
    if wanted is not None and not 8 <= wanted <= limit:
        raise Misconfigured(f"--max-tokens {wanted} is not between 8 and {limit}, the longest input that the model reads")
    return wanted or min(_MAX_TOKENS, limit)


def _check_answers(source: str, model: Any, tokenizer: Any, max_tokens: int) -> None:
    """Answer the longest text once: only the model itself knows what it cannot do."""
    longest = tokenizer(" a" * max_tokens, truncation=True, max_length=max_tokens, return_tensors="pt")
    try:
        with torch.inference_mode():
            answer = tuple(model.eval()(input_ids=longest["input_ids"]).logits.shape)
    except (AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise Misconfigured(f"the model {source} cannot answer a text of {max_tokens} tokens: {_first_line(error)}") from error
    if answer != (1, model.config.num_labels):
        raise Misconfigured(f"the model {source} answers one text with scores of the shape {answer}, not one for each label")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
