"""What is trained of a model: the scopes, and low-rank adapters served unmerged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from liveloop.errors import Misconfigured
from liveloop.tasks import FeedbackExample, LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import narrow, widen
from liveloop.v1.weights_pb2 import Layout
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from liveloop.weights.subscriber import Subscriber
from services.learner.micro_batch import MicroBatch
from services.learner.pretrained import Pretrained, Wanted, load_pretrained
from services.learner.scope import parse
from services.learner.trainer import Trainer
from tests.checkpoints import save_family
from tests.unit import test_learning

SCOPES = ("all", "no-embeddings", "last-1", "head", "lora-4")
TEXTS = ["a good movie", "bad", "was it " * 12]
RECIPE = replace(test_learning.RECIPE, learning_rate=1e-2)
BATCH = MicroBatch((1,), (), (0,), (FeedbackExample("good movie", 1, -1, 1.0),), (LabelledExample("bad film", 0),))

Start = Callable[[str], Pretrained]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A tiny BERT loaded for a scope."""
    folder = save_family(tmp_path_factory.mktemp("bert"), "bert")
    return lambda scope: load_pretrained(str(folder), Wanted(scope=scope))


def new_trainer(start: Pretrained) -> Trainer:
    trainer = Trainer(Classification(start.bundle), start.bundle.layout, torch.device("cpu"))
    trainer.reset(narrow(start.flat))
    return trainer


def trained(layout: Layout) -> list[str]:
    return [spec.name for spec in layout.tensors if spec.offset >= layout.frozen]


def tensor(layout: Layout, flat: torch.Tensor, name: str) -> torch.Tensor:
    spec = next(spec for spec in layout.tensors if spec.name == name)
    return flat[spec.offset :][: int(np.prod(spec.shape))].view(*spec.shape)


def logits(start: Pretrained, flat: torch.Tensor) -> torch.Tensor:
    task = Classification(start.bundle)
    with torch.inference_mode():
        return task.logits(task.new_model(start.bundle.layout, flat), task.encode(TEXTS))


@pytest.mark.parametrize("text", SCOPES)
def test_a_scope_reads_as_it_is_written(text: str):
    assert str(parse(text)) == text


def test_without_a_word_all_but_the_embeddings_is_trained():
    assert str(parse("")) == "no-embeddings"


@pytest.mark.parametrize("text", ["last", "last-0", "last--1", "lora-", "lora-1.5", "lora-08", "body", "ALL", "lora-9999999", "all "])
def test_a_scope_that_is_none_is_one_sentence(text: str):
    with pytest.raises(Misconfigured, match="is none of all, no-embeddings, last-N, head and lora-R"):
        parse(text)


def test_the_scopes_train_what_they_say(start: Start):
    names = {scope: trained(start(scope).bundle.layout) for scope in SCOPES}
    everything, head = names["all"], ["classifier.weight", "classifier.bias"]
    assert names["no-embeddings"] == [name for name in everything if name != "bert.embeddings.word_embeddings.weight"]
    assert names["last-1"] == [name for name in everything if name.startswith(("bert.encoder.layer.1.", "bert.pooler."))] + head
    assert names["head"] == head
    layers = [f"bert.encoder.layer.{layer}.attention.self.{part}" for layer in (0, 1) for part in ("query", "value")]
    assert names["lora-4"] == [f"{layer}.lora_{factor}.default.weight" for layer in layers for factor in "AB"] + head


@pytest.mark.parametrize(
    ("scope", "sentence"),
    [("last-3", "asks for more layers than the model's 2"), ("lora-32", "not of a lower rank than the model's own projections, 32")],
)
def test_a_scope_larger_than_the_model_is_refused(start: Start, scope: str, sentence: str):
    with pytest.raises(Misconfigured, match=sentence):
        start(scope)


def test_a_new_adapter_changes_nothing(start: Start):
    torch.testing.assert_close(logits(start("lora-4"), start("lora-4").flat), logits(start("all"), start("all").flat))


def test_a_new_adapter_is_the_same_each_time(start: Start):
    assert torch.equal(start("lora-4").flat, start("lora-4").flat)


def test_an_adapter_beside_its_layer_computes_what_one_merged_into_it_does(start: Start):
    plain, adapted = start("all"), start("lora-4")
    layout, merged, flat = adapted.bundle.layout, plain.flat.clone(), adapted.flat.clone()
    flat[layout.frozen :] += 0.1 * torch.randn(layout.total - layout.frozen, generator=torch.Generator().manual_seed(0))
    config = json.loads(adapted.bundle.files["adapter_config.json"])
    for spec in plain.bundle.layout.tensors:
        target = tensor(plain.bundle.layout, merged, spec.name)
        layer = spec.name.removesuffix(".weight")
        if layer.endswith((".query", ".value")):
            up, down = (tensor(layout, flat, f"{layer}.lora_{factor}.default.weight") for factor in "BA")
            target += config["lora_alpha"] / config["r"] * up @ down
        elif spec.name.startswith("classifier."):
            target.copy_(tensor(layout, flat, spec.name))
    assert not torch.allclose(logits(plain, merged), logits(plain, plain.flat), atol=1e-2)
    torch.testing.assert_close(logits(adapted, flat), logits(plain, merged))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_step_travels_to_a_pod_and_touches_the_scope_alone(start: Start, tmp_path: Path, scope: str, optimizer: str):
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate={"adamw": 1e-2, "sgd": 1.0}[optimizer])
    model, key = start(scope), Ed25519PrivateKey.generate()
    trainer, frozen = new_trainer(model), model.bundle.layout.frozen
    with DirectoryStore(tmp_path) as store, Publisher.first(store, key, model.bundle, trainer.bits) as publisher:
        pod = Subscriber(store, key.public_key())
        pod.start()
        before = pod.state.bits.copy()
        trainer.apply(trainer.compute(BATCH, recipe, 1), recipe)
        publisher.publish(publisher.stage(trainer.bits), version=2, step=1, included=[], created_at=0.0)
        update = pod.next(timeout=5.0)
        assert update is not None and update.chunks == [0]
        assert np.array_equal(before[:frozen], pod.state.bits[:frozen])
        assert np.array_equal(pod.state.bits, trainer.bits)
        ends = [(spec.name, spec.offset, spec.offset + int(np.prod(spec.shape))) for spec in pod.layout.tensors]
        changed = {name for name, start, end in ends if not np.array_equal(before[start:end], pod.state.bits[start:end])}
        assert changed and changed <= set(trained(pod.layout))
        served = Classification(pod.bundle).new_model(pod.layout, widen(pod.state.bits))
        assert not any(parameter.requires_grad for parameter in served.parameters())


@pytest.mark.parametrize("scope", SCOPES)
def test_restored_tensors_go_on_to_the_bit_in_every_scope(start: Start, scope: str):
    one, other = new_trainer(start(scope)), new_trainer(start(scope))
    one.apply(one.compute(BATCH, RECIPE, 1), RECIPE)
    other.load(one.tensors())
    for trainer in (one, other):
        trainer.apply(trainer.compute(BATCH, RECIPE, 2), RECIPE)
        trainer.settle()
    assert np.array_equal(one.bits, other.bits)
