"""Text classification with any transformers checkpoint that has a classification head. Knows models; knows no service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from liveloop.errors import WrongLayout
from liveloop.tasks import Answer, Encoded, FeedbackExample, LabelledExample
from liveloop.tasks.bert import Bert, is_bert
from liveloop.tasks.flat import bind
from liveloop.tasks.lora import ADAPTER_FILE, Adapter, adapt
from liveloop.v1.weights_pb2 import Layout, ModelBundle


class Classification:
    """Chooses one of K labels for a text; always the best one, so every propensity is 1."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Build from what `bundle` carries: labels, config.json, tokenizer.json, adapters. Raises WrongLayout for another task."""
        if bundle.format != 1 or bundle.task != "classification":
            raise WrongLayout(f"this build serves classification bundles of format 1, not {bundle.task!r} of format {bundle.format}")
        self.bundle = bundle
        self.labels: tuple[str, ...] = tuple(bundle.labels)
        self._config: dict[str, Any] = json.loads(bundle.files["config.json"])
        self._pad: int = self._config["pad_token_id"]
        self._tokenizer = Tokenizer.from_buffer(bundle.files["tokenizer.json"])
        self._tokenizer.enable_truncation(bundle.max_tokens)
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise and cut to the bundle's max_tokens; safe to call from any thread."""
        found = self._tokenizer.encode_batch(list(texts))
        return [Encoded(tuple(one.ids) or (self._pad,), bool(one.overflowing)) for one in found]  # a text of spaces may have no token

    def new_model(self, layout: Layout, flat: torch.Tensor, gradients: torch.Tensor | None = None) -> torch.nn.Module:
        """A model that computes from `flat` (fp32, [layout.total]), and accumulates into `gradients` where given (see `bind`)."""
        model = self._empty_model()
        bind(model, layout, flat, gradients)
        return model.to(flat.device)

    def _empty_model(self) -> torch.nn.Module:
        """A model whose parameters are not set; it computes all that is in no checkpoint from its configuration."""
        model: torch.nn.Module
        if is_bert(self._config):
            with torch.device("meta"):
                model = Bert(self._config, len(self.labels))
                self._adapt(model)
            return model
        from transformers import AutoConfig, AutoModelForSequenceClassification  # seconds to import
        from transformers.initialization import no_init_weights

        config = AutoConfig.for_model(**{**self._config, "use_cache": False})
        with no_init_weights():  # memory that is never written is never taken
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        model.tie_weights()  # type: ignore[operator]  # transformers counts it among the initialisation
        self._adapt(model)
        return model

    def _adapt(self, model: torch.nn.Module) -> None:
        if ADAPTER_FILE in self.bundle.files:
            adapt(model, Adapter.from_json(self.bundle.files[ADAPTER_FILE]))

    @torch.inference_mode()
    def answer(self, model: torch.nn.Module, inputs: Sequence[Encoded]) -> list[Answer]:
        """The most probable label of each input."""
        probabilities_BK = self.logits(model, inputs).softmax(-1)
        labels = probabilities_BK.argmax(-1).tolist()
        return [Answer(label, tuple(row), 1.0) for label, row in zip(labels, probabilities_BK.tolist(), strict=True)]

    def logits(self, model: torch.nn.Module, inputs: Sequence[Encoded]) -> torch.Tensor:
        """Scores before the softmax, fp32, [len(inputs), K]."""
        width = max(len(item.tokens) for item in inputs)
        padding = [width - len(item.tokens) for item in inputs]
        device = next(model.parameters()).device
        tokens_BT = torch.tensor([(*item.tokens, *[self._pad] * pad) for item, pad in zip(inputs, padding, strict=True)], device=device)
        mask_BT = torch.tensor([[1] * (width - pad) + [0] * pad for pad in padding], device=device) if any(padding) else None
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits_BK: torch.Tensor = model(input_ids=tokens_BT, attention_mask=mask_BT).logits
        return logits_BK.float()

    def task_loss(self, model: torch.nn.Module, rows: Sequence[LabelledExample]) -> torch.Tensor:
        """Mean cross-entropy over labelled rows."""
        logits_BK = self.logits(model, self.encode([row.text for row in rows]))
        return F.cross_entropy(logits_BK, torch.tensor([row.label for row in rows], device=logits_BK.device))

    def feedback_loss(self, model: torch.nn.Module, items: Sequence[FeedbackExample], nominal: int) -> torch.Tensor:
        """Complementary likelihood: sum of weight * loss over max(nominal, len(items)); see `complementary_loss`."""
        logits_BK = self.logits(model, self.encode([item.text for item in items]))
        device = logits_BK.device
        losses_B = complementary_loss(
            logits_BK,
            torch.tensor([item.label for item in items], device=device),
            torch.tensor([item.sign for item in items], device=device),
        )
        weights_B = torch.tensor([item.weight for item in items], device=device)
        return (weights_B * losses_B).sum() / max(nominal, len(items))


def complementary_loss(logits_BK: torch.Tensor, labels_B: torch.Tensor, signs_B: torch.Tensor) -> torch.Tensor:
    """-log p(a) where the sign is +1, -log(1 - p(a)) where it is -1; [B].

    The second is logsumexp(z) - logsumexp(z without a), which stays finite as p(a) goes to 1. This is the likelihood of learning from
    complementary labels (Yu et al. 2018, arXiv 1711.09535) and the unlikelihood of Welleck et al. (2019, arXiv 1908.04319).
    """
    total_B = logits_BK.logsumexp(-1)
    chosen_B = logits_BK.gather(-1, labels_B[:, None]).squeeze(-1)
    others_B = logits_BK.masked_fill(F.one_hot(labels_B, logits_BK.shape[-1]).bool(), float("-inf")).logsumexp(-1)
    return total_B - torch.where(signs_B > 0, chosen_B, others_B)
