"""Any transformers text classifier: what pods answer from the published state is what transformers answers from the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tokenizers import Tokenizer, processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from liveloop.errors import Misconfigured
from liveloop.tasks import FeedbackExample, LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import float_tensors, narrow, widen
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from liveloop.weights.subscriber import Subscriber
from services.learner.micro_batch import MicroBatch
from services.learner.pretrained import Pretrained, Wanted, load_pretrained
from services.learner.trainer import Trainer
from tests.checkpoints import FAMILIES, save_family
from tests.unit import test_learning

TEXTS = ["a good movie", "bad", "what was it " * 20, "not a good film"]
RECIPE = replace(test_learning.RECIPE, learning_rate=1e-2)
BATCH = MicroBatch((1,), (), (0,), (FeedbackExample("good movie", 1, -1, 1.0),), (LabelledExample("bad film", 0),))


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    start: Pretrained


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = save_family(tmp_path_factory.mktemp(request.param), request.param)
    return Checkpoint(folder, load_pretrained(str(folder), Wanted()))


def reference_logits(folder: Path) -> torch.Tensor:
    """What transformers computes from the checkpoint, its weights rounded to bf16, of a batch that its own tokenizer made."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True, truncation=True, max_length=32)
    with torch.inference_mode():
        for _, weight in float_tensors(model):
            weight.copy_(weight.bfloat16())
        logits: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits


def test_a_pod_answers_what_transformers_does_and_takes_a_trained_version(checkpoint: Checkpoint, tmp_path: Path):
    bundle, key = checkpoint.start.bundle, Ed25519PrivateKey.generate()
    with DirectoryStore(tmp_path) as store, Publisher.first(store, key, bundle, narrow(checkpoint.start.flat)) as publisher:
        pod = Subscriber(store, key.public_key())
        pod.start()
        task = Classification(pod.bundle)
        inputs, expected = task.encode(TEXTS), reference_logits(checkpoint.folder)
        model = task.new_model(pod.layout, widen(pod.state.bits))
        with torch.inference_mode():
            torch.testing.assert_close(task.logits(model, inputs), expected)
            torch.testing.assert_close(torch.cat([task.logits(model, [item]) for item in inputs]), expected)
        assert expected.std(0).min() > 0.01

        trainer = Trainer(Classification(bundle), bundle.layout, torch.device("cpu"))
        trainer.reset(publisher.state.bits)
        for row in range(3):
            trainer.apply(trainer.compute(BATCH, RECIPE, row), RECIPE)
        publisher.publish(publisher.stage(trainer.bits), version=2, step=3, included=[], created_at=0.0)
        assert pod.next(timeout=5.0) is not None
        assert np.array_equal(pod.state.bits, trainer.bits)
        with torch.inference_mode():
            moved = task.logits(task.new_model(pod.layout, widen(pod.state.bits)), inputs) - expected
        assert moved[:, 0].sub(moved[:, 1]).sum() > 0.01  # both examples speak for label 0


def test_every_storage_lies_in_the_layout_once(checkpoint: Checkpoint):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder, dtype=torch.float32)
    kept = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point()}
    assert checkpoint.start.bundle.layout.total == sum(kept.values())


def test_tied_embeddings_train_as_one(tmp_path: Path):
    start = load_pretrained(str(save_family(tmp_path, "t5")), Wanted(scope="all"))
    model = Classification(start.bundle).new_model(start.bundle.layout, start.flat)
    tables = [model.get_parameter(f"transformer.{part}.weight") for part in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")]
    assert all(table is tables[0] for table in tables)
    assert sum("embed" in spec.name or "shared" in spec.name for spec in start.bundle.layout.tensors) == 1


def test_float_buffers_of_a_checkpoint_travel_frozen_and_computed_ones_do_not(tmp_path: Path):
    layout = load_pretrained(str(save_family(tmp_path / "ibert", "ibert")), Wanted(scope="all")).bundle.layout
    assert layout.frozen > 0
    assert {"x_min", "fc_scaling_factor"} <= {spec.name.rpartition(".")[2] for spec in layout.tensors if spec.offset < layout.frozen}
    start = load_pretrained(str(save_family(tmp_path / "llama", "llama")), Wanted(scope="all"))
    assert start.bundle.layout.frozen == 0
    model = Classification(start.bundle).new_model(start.bundle.layout, start.flat)
    rotations = model.get_buffer("model.rotary_emb.inv_freq")
    assert rotations.dtype == torch.float32
    torch.testing.assert_close(rotations, 10_000.0 ** -(torch.arange(0, 16, 2) / 16))


@pytest.mark.parametrize("scope", ["last-1", "lora-2"])
@pytest.mark.parametrize("family", ["distilbert", "electra", "deberta-v2", "modernbert", "gpt2", "qwen2"])
def test_layers_and_projections_are_found_under_each_familys_names(tmp_path: Path, family: str, scope: str):
    start = load_pretrained(str(save_family(tmp_path, family)), Wanted(scope=scope))
    layout = start.bundle.layout
    trained = [spec.name for spec in layout.tensors if spec.offset >= layout.frozen]
    assert layout.frozen > 0 and len(trained) < len(layout.tensors)
    assert not any(".0." in name for name in trained) if scope == "last-1" else any(".0." in name for name in trained)
    assert any(name.startswith(("classifier.", "score.")) for name in trained)
    trainer = Trainer(Classification(start.bundle), layout, torch.device("cpu"))
    trainer.reset(narrow(start.flat))
    assert trainer.compute(BATCH, RECIPE, 1).gradient_norm > 0


@pytest.mark.parametrize(("family", "scope"), [("albert", "last-1"), ("t5", "last-1"), ("ibert", "lora-2")])
def test_a_scope_that_cannot_be_found_in_a_model_is_one_sentence(tmp_path: Path, family: str, scope: str):
    with pytest.raises(Misconfigured, match=f"this {family} model .*: train it with another scope than {scope}"):
        load_pretrained(str(save_family(tmp_path, family)), Wanted(scope=scope))


@pytest.mark.parametrize("family", ["llama", "gpt2", "distilbert"])
def test_a_text_without_a_token_is_answered(tmp_path: Path, family: str):
    start = load_pretrained(str(save_family(tmp_path, family)), Wanted())
    bare = Tokenizer.from_str(start.bundle.files["tokenizer.json"].decode())
    bare.post_processor = processors.Sequence([])
    start.bundle.files["tokenizer.json"] = bare.to_str().encode()
    task = Classification(start.bundle)
    model = task.new_model(start.bundle.layout, start.flat)
    assert bare.encode("  ").ids == []
    for texts in (["  "], ["  ", "a good movie"]):
        answers = task.answer(model, task.encode(texts))
        assert [sum(answer.probabilities) for answer in answers] == pytest.approx([1.0] * len(texts))
