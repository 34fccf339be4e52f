"""Text classification with any transformers checkpoint that has a classification head. Knows models; knows no service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from liveloop.errors import WrongLayout
from liveloop.tasks import Answer, Encoded, FeedbackExample, LabelledExample, Losses, Objective
from liveloop.tasks.bert import Bert, is_bert
from liveloop.tasks.flat import bind
from liveloop.tasks.lora import ADAPTER_FILE, Adapter, adapt
from liveloop.tasks.objectives import LOSSES, Judged, divergence, moved
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

    def new_model(
        self, layout: Layout, flat: torch.Tensor, gradients: torch.Tensor | None = None, *, trained: torch.Tensor | None = None
    ) -> torch.nn.Module:
        """A model that computes from `flat` (fp32, [layout.total]); `gradients` and `trained` as in `bind`."""
        model = self._empty_model()
        bind(model, layout, flat, gradients, trained=trained)
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
        return _cross_entropy(self._read(model, rows), rows)

    def losses(
        self, model: torch.nn.Module, rows: Sequence[LabelledExample], feedback: Sequence[FeedbackExample], objective: Objective
    ) -> Losses:
        """What a step minimises: a forward pass of the feedback, one of the rows, and those of the reference where it is asked for."""
        task = taught = kl = torch.zeros((), device=objective.baselines.device)
        baselines, near = objective.baselines, []
        if feedback:
            logits_BK = self._read(model, feedback)
            compares = LOSSES[objective.loss].reference or objective.measures_kl
            reference_BK = self._refer(objective, feedback) if compares else logits_BK.detach()
            taught, baselines = _feedback_loss(logits_BK, reference_BK, feedback, objective)
            near.append((reference_BK, logits_BK))
        if rows:
            logits_BK = self._read(model, rows)
            task = _cross_entropy(logits_BK, rows)
            if objective.measures_kl:
                near.append((self._refer(objective, rows), logits_BK))
        if near and objective.measures_kl:
            kl = torch.cat([divergence(*pair) for pair in near]).mean()
        return Losses(task, taught, kl, baselines)

    def _read(self, model: torch.nn.Module, examples: Sequence[LabelledExample | FeedbackExample]) -> torch.Tensor:
        return self.logits(model, self.encode([example.text for example in examples]))

    @torch.no_grad()
    def _refer(self, objective: Objective, examples: Sequence[LabelledExample | FeedbackExample]) -> torch.Tensor:
        assert objective.reference is not None
        return self._read(objective.reference, examples)


def _cross_entropy(logits_BK: torch.Tensor, rows: Sequence[LabelledExample]) -> torch.Tensor:
    return F.cross_entropy(logits_BK, torch.tensor([row.label for row in rows], device=logits_BK.device))


def _feedback_loss(
    logits_BK: torch.Tensor, reference_BK: torch.Tensor, items: Sequence[FeedbackExample], objective: Objective
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of weight * loss over max(nominal, len(items)), and the baselines after it; corrections move none."""
    device, loss = logits_BK.device, LOSSES[objective.loss]
    judged = Judged(
        logits_BK,
        torch.tensor([item.label for item in items], device=device),
        torch.tensor([item.sign for item in items], device=device),
        torch.tensor([item.propensity for item in items], device=device),
        reference_BK,
        objective.baselines,
    )
    weights_B = torch.tensor([item.weight for item in items], device=device)
    named_B = torch.tensor([item.is_correction for item in items], device=device)
    losses_B = torch.where(named_B, -judged.log_p_B, loss.compute(judged))
    return (weights_B * losses_B).sum() / max(objective.nominal, len(items)), moved(loss, judged, weights_B * ~named_B)
