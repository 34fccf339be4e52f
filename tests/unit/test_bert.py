"""Our BERT and transformers' are one function; other models go through transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, DistilBertConfig

from liveloop.tasks import LabelledExample
from liveloop.tasks.bert import Bert, is_bert
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import bind, flatten, layout_of
from tests.tiny import tiny_bundle

TEXTS = ["a good movie", "bad", "what was it " * 20, "not a good film"]


def test_logits_and_gradients_are_those_of_transformers():
    bundle, bits = tiny_bundle(labels=("a", "b", "c"), seed=3)
    task = Classification(bundle)
    flat = torch.from_numpy((bits.astype(np.uint32) << 16).view(np.float32))
    trained = bundle.layout.total - bundle.layout.frozen
    ours, theirs = torch.zeros(trained), torch.zeros(trained)
    model = task.new_model(bundle.layout, flat, ours)
    assert isinstance(model, Bert)
    reference = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**json.loads(bundle.files["config.json"])))
    bind(reference, bundle.layout, flat, theirs)
    inputs = task.encode(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(task.logits(model, inputs), task.logits(reference, inputs))
        torch.testing.assert_close(task.logits(model, inputs[:1]), task.logits(reference, inputs[:1]))
    rows = [LabelledExample(text, number % 3) for number, text in enumerate(TEXTS)]
    for one in (model, reference):
        task.task_loss(one, rows).backward()
    assert ours.abs().sum() > 0
    torch.testing.assert_close(ours, theirs)


def test_an_answer_does_not_depend_on_its_neighbours_padding():
    bundle, bits = tiny_bundle()
    task = Classification(bundle)
    model = task.new_model(bundle.layout, torch.from_numpy((bits.astype(np.uint32) << 16).view(np.float32)))
    inputs = task.encode(TEXTS)
    together = task.answer(model, inputs)
    for item, answer in zip(inputs, together, strict=True):
        assert task.answer(model, [item])[0].probabilities == pytest.approx(answer.probabilities, abs=1e-6)


@pytest.mark.parametrize(
    "change", [{"model_type": "roberta"}, {"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}, {"is_decoder": True}]
)
def test_a_config_that_asks_for_more_is_not_taken_for_bert(change: dict[str, object]):
    config = json.loads(tiny_bundle()[0].files["config.json"])
    assert is_bert(config)
    assert not is_bert({**config, **change})


def test_another_model_family_answers_through_transformers():
    bundle, _ = tiny_bundle()
    config = DistilBertConfig(vocab_size=200, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32, num_labels=2)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    bundle.files["config.json"] = json.dumps(config.to_dict()).encode()
    layout = layout_of(model, frozen=lambda _: False)
    task = Classification(bundle)
    served = task.new_model(layout, flatten(model, layout))
    inputs = task.encode(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(task.logits(served, inputs), task.logits(model, inputs))
