"""Prints the memory that a large model takes in the learner and in a pod, by scope: `python -m benchmarks.memory [layers] [width]`.

The weights are random and the model is a BERT, 24 layers of 1,024 channels by default: 335 million values, a state of 670 MB. Each process
is measured in a process of its own: the peak of its resident memory, less what it took before the weights.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tokenizers import Tokenizer, models, pre_tokenizers

from liveloop.tasks import FeedbackExample
from liveloop.tasks.bert import Bert
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import layout_of
from liveloop.tasks.lora import ADAPTER_FILE, Adapter, adapt
from liveloop.v1.weights_pb2 import ModelBundle
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from liveloop.weights.subscriber import Subscriber
from services.inference.replica import Replica
from services.learner.evaluator import Evaluator
from services.learner.micro_batch import MicroBatch
from services.learner.trainer import Recipe, Trainer
from services.learner.warm_start import memory

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
CPU = torch.device("cpu")
RECIPE = Recipe(
    objective="complementary",
    optimizer="adamw",
    learning_rate=2e-5,
    feedback_weight=1.0,
    kl_weight=0.0,
    warm_up=0,
    ema_decay=0.9,
    clip_norm=1.0,
    micro_batch=8,
    expert_weight=2.0,
    expert_share=0.5,
    seed=0,
    task_data="",
    threads=1,
    device="",
    torch="",
)
BATCH = MicroBatch((1,), (), (), (FeedbackExample("a b", 1, +1, 1.0),), ())


def bundle(layers: int, width: int, *, rank: int) -> ModelBundle:
    """A BERT whose embeddings are frozen; with a `rank`, all but its adapters and head."""
    config = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": width, "num_hidden_layers": layers, "layer_norm_eps": 1e-12}
    config |= {"num_attention_heads": width // 64, "intermediate_size": 4 * width, "pad_token_id": 0}
    config |= {"vocab_size": 30_522, "max_position_embeddings": 512, "type_vocab_size": 2}
    adapter = Adapter(rank, 2 * rank, ("query", "value"))
    with torch.device("meta"):
        model = Bert(config, labels=2)
        if rank:
            adapt(model, adapter)
    trained = ("lora_", "classifier") if rank else ("",)
    layout = layout_of(model, frozen=lambda name: "word_embeddings" in name or not any(part in name for part in trained))
    tokenizer = Tokenizer(models.WordLevel({"a": 1, "b": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    found = ModelBundle(format=1, task="classification", model="large", labels=["no", "yes"], max_tokens=64, layout=layout)
    found.files["config.json"], found.files["tokenizer.json"] = json.dumps(config).encode(), tokenizer.to_str().encode()
    if rank:
        found.files[ADAPTER_FILE] = adapter.to_json()
    return found


def publish(folder: Path, model: ModelBundle) -> None:
    """Version 1 of random weights."""
    values = np.random.default_rng(0).standard_normal(model.layout.total, dtype=np.float32) * np.float32(0.02)
    Publisher.first(DirectoryStore(folder), KEY, model, (values.view(np.uint32) >> 16).astype(np.uint16)).close()


def learner(folder: Path) -> float:
    """A learner that has evaluated, taken a step, published it and copied its tensors; bytes."""
    with Publisher(DirectoryStore(folder), KEY, epoch=2) as publisher:
        task, layout = Classification(publisher.bundle), publisher.layout
        trainer, evaluator = Trainer(task, layout, CPU), Evaluator(task, layout, {}, CPU)
        trainer.reset(publisher.state.bits)
        trainer.apply(trainer.compute(BATCH, RECIPE, 1), RECIPE)
        publisher.publish(publisher.stage(trainer.bits), version=2, step=1, included=[], created_at=0.0)
        kept = trainer.tensors(), evaluator
        assert kept
        return _peak()


def pod(folder: Path) -> float:
    """A pod that serves; bytes."""
    subscriber = Subscriber(DirectoryStore(folder), KEY.public_key())
    subscriber.start()
    served = Replica(Classification(subscriber.bundle), subscriber.layout, subscriber.state.bits, subscriber.version)
    assert served.version
    return _peak()


def _peak() -> float:
    """The kernel's own mark; getrusage's would be the parent's where that was higher."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024.0


def _measured(process: Callable[[Path], float], folder: Path) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before = pool.apply(_peak)
        return pool.apply(process, [folder]) - before


def main() -> None:
    """Print a table: MB, bytes a value, and what `liveloop init` says beforehand."""
    layers, width = [int(argument) for argument in sys.argv[1:]] or (24, 1024)
    for rank in (0, 8):
        model = bundle(layers, width, rank=rank)
        with tempfile.TemporaryDirectory() as name:
            publish(Path(name), model)
            expected = memory(model.layout)
            for process, bound in ((pod, expected[0]), (learner, expected[1])):
                found = _measured(process, Path(name))
                scope = f"lora-{rank}" if rank else "no-embeddings"
                each = found / model.layout.total
                print(f"{scope:14} {process.__name__:8} {found / 1e6:8,.0f} MB {each:5.1f} bytes a value; init says {bound / 1e6:8,.0f} MB")


if __name__ == "__main__":
    main()
