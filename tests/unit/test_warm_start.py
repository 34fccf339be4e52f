"""Checkpoints in, and the supervised training before version 1, on a BERT of a few thousand weights."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from liveloop.errors import Misconfigured
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import narrow, widen
from liveloop.v1.weights_pb2 import ModelBundle
from services.learner.pretrained import Wanted, load_pretrained
from services.learner.task_data import Row
from services.learner.warm_start import Plan, choose, evaluate, train
from tests.tiny import tiny_bundle

GOOD, BAD = ("good", "great", "fine"), ("bad", "boring", "dull")


def save_checkpoint(folder: Path, *, head: bool = True, labels: tuple[str, ...] = ("negative", "positive"), tokenizer: bool = True) -> Path:
    """A transformers folder with the tiny model; without its head where not `head`."""
    bundle, _ = tiny_bundle()
    config = BertConfig(**{**json.loads(bundle.files["config.json"]), "id2label": dict(enumerate(labels))})
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        (BertForSequenceClassification(config) if head else BertModel(config)).save_pretrained(folder)
    if tokenizer:
        wrapped = Tokenizer.from_str(bundle.files["tokenizer.json"].decode())
        PreTrainedTokenizerFast(
            tokenizer_object=wrapped, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=32
        ).save_pretrained(folder)
    return folder


def reviews(count: int, seed: int = 0) -> list[Row]:
    """Texts whose label is that of their one telling word."""
    rng = random.Random(seed)
    return [
        Row(f"{rng.choice(['this', 'the'])} {rng.choice(['film', 'movie'])} is {rng.choice(words)} {number}", label)
        for number in range(count)
        for words, label in [(GOOD, "positive") if number % 2 else (BAD, "negative")]
    ]


def _answers(bundle: ModelBundle, flat: torch.Tensor, texts: list[str]) -> list[int]:
    task = Classification(bundle)
    return choose(task, task.new_model(bundle.layout, flat), texts)


def test_a_head_for_the_same_labels_is_kept_and_answers_as_transformers_does(tmp_path: Path):
    folder = str(save_checkpoint(tmp_path))
    start = load_pretrained(folder, Wanted(labels=["positive", "negative"]))
    assert start.head_kept
    assert list(start.bundle.labels) == ["negative", "positive"]
    texts = [row.text for row in reviews(20)]
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.inference_mode():
        expected = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
        task = Classification(start.bundle)
        found = task.logits(task.new_model(start.bundle.layout, start.flat), task.encode(texts))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_labels_get_a_new_head_on_the_same_body(tmp_path: Path):
    folder = str(save_checkpoint(tmp_path))
    kept, new = load_pretrained(folder, Wanted()), load_pretrained(folder, Wanted(labels=["a", "b", "c"]))
    assert kept.head_kept
    assert not new.head_kept
    assert list(new.bundle.labels) == ["a", "b", "c"]
    frozen = kept.bundle.layout.frozen
    assert torch.equal(kept.flat[:frozen], new.flat[:frozen])
    body = sum(spec.name.startswith("bert.") for spec in kept.bundle.layout.tensors)
    size = next(spec.offset for spec in kept.bundle.layout.tensors[body:])
    assert torch.equal(kept.flat[:size], new.flat[:size])


def test_labels_give_names_to_a_head_that_has_none(tmp_path: Path):
    start = load_pretrained(str(save_checkpoint(tmp_path, labels=("LABEL_0", "LABEL_1"))), Wanted(labels=["down", "up"]))
    assert start.head_kept
    assert list(start.bundle.labels) == ["down", "up"]


def test_a_checkpoint_without_a_head_takes_the_datas_labels(tmp_path: Path):
    start = load_pretrained(str(save_checkpoint(tmp_path, head=False)), Wanted(data_labels=["b", "a", "b"]))
    assert not start.head_kept
    assert list(start.bundle.labels) == ["a", "b"]


def test_a_new_head_is_the_same_each_time(tmp_path: Path):
    folder = str(save_checkpoint(tmp_path, head=False))
    assert torch.equal(load_pretrained(folder, Wanted(labels="ab")).flat, load_pretrained(folder, Wanted(labels="ab")).flat)


def test_the_word_embeddings_alone_are_frozen_unless_thawed(tmp_path: Path):
    folder = str(save_checkpoint(tmp_path))
    layout = load_pretrained(folder, Wanted()).bundle.layout
    assert [spec.name for spec in layout.tensors if spec.offset < layout.frozen] == ["bert.embeddings.word_embeddings.weight"]
    assert load_pretrained(folder, Wanted(scope="all")).bundle.layout.frozen == 0


def _without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _of_unknown_kind(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def _with_torn_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_without_tokenizer, "has no tokenizer"),
        (_without_config, "has no config.json"),
        (_without_weights, "cannot be loaded"),
        (_of_unknown_kind, "cannot be loaded"),
        (_with_torn_weights, "cannot be loaded"),
        (_gone, "is not a folder"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_with_one_sentence(tmp_path: Path, damage: Callable[[Path], None], sentence: str):
    folder = save_checkpoint(tmp_path / "model")
    damage(folder)
    with pytest.raises(Misconfigured, match=sentence) as refusal:
        load_pretrained(str(folder), Wanted())
    assert "\n" not in refusal.value.reason


@pytest.mark.parametrize("labels", [["one"], ["a", "a"], ["a", ""]])
def test_labels_must_be_two_or_more_and_each_once(tmp_path: Path, labels: list[str]):
    with pytest.raises(Misconfigured, match="two labels or more"):
        load_pretrained(str(save_checkpoint(tmp_path)), Wanted(labels=labels))


def test_more_tokens_than_the_model_reads_are_refused(tmp_path: Path):
    with pytest.raises(Misconfigured, match="not between 8 and 32"):
        load_pretrained(str(save_checkpoint(tmp_path)), Wanted(max_tokens=64))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a model this small a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_training_learns_what_the_labels_say_and_leaves_frozen_values_alone():
    bundle, bits = tiny_bundle()
    flat = widen(bits)
    held_out = reviews(60, seed=1)
    before, _ = evaluate(bundle, flat, held_out)
    trained = train(bundle, flat, reviews(200), reviews(40, seed=2), Plan(epochs=6, learning_rate=3e-3), lambda _share, _words: None)
    after, _ = evaluate(bundle, trained.flat, held_out)
    assert trained.complete
    assert before.accuracy < 0.8
    assert after.accuracy == 1.0
    assert after.recall == {"negative": 1.0, "positive": 1.0}
    assert after.support == {"negative": 30, "positive": 30}
    assert torch.equal(trained.flat[: bundle.layout.frozen], flat[: bundle.layout.frozen])
    assert torch.equal(flat, widen(bits))


def test_training_is_the_same_each_time():
    bundle, bits = tiny_bundle()
    states = [train(bundle, widen(bits), reviews(40), [], Plan(epochs=1), lambda _share, _words: None).flat for _ in range(2)]
    assert torch.equal(*states)


def test_training_out_of_time_says_so():
    bundle, bits = tiny_bundle()
    trained = train(bundle, widen(bits), reviews(40), reviews(10), Plan(epochs=50, seconds=1e-6), lambda _share, _words: None)
    assert not trained.complete


def test_the_best_epoch_on_the_validation_data_is_kept():
    """Validation rows labelled the other way round: every epoch makes them worse, so the first is the best, and training stops early."""
    bundle, bits = tiny_bundle()
    twisted = [Row(row.text, "negative" if row.label == "positive" else "positive") for row in reviews(40, seed=2)]
    shares: list[float] = []
    plan = Plan(epochs=20, learning_rate=3e-3)
    trained = train(bundle, widen(bits), reviews(200), twisted, plan, lambda share, _words: shares.append(share))
    kept, _ = evaluate(bundle, trained.flat, twisted)
    last = train(bundle, widen(bits), reviews(200), [], plan, lambda _share, _words: None)
    assert kept.accuracy > evaluate(bundle, last.flat, twisted)[0].accuracy
    assert max(shares) < 1.0


def test_progress_rises_to_the_end():
    bundle, bits = tiny_bundle()
    shares: list[float] = []
    train(bundle, widen(bits), reviews(64), [], Plan(epochs=2), lambda share, _words: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_order_of_the_texts_does_not_change_their_answers():
    bundle, bits = tiny_bundle()
    texts = [row.text + " and so on" * (number % 5) for number, row in enumerate(reviews(150))]
    assert _answers(bundle, widen(bits), texts) == _answers(bundle, widen(bits), texts[::-1])[::-1]


def test_the_served_state_is_the_nearest_bf16_of_the_trained_one():
    bundle, bits = tiny_bundle()
    flat = widen(bits) * 1.001
    assert torch.equal(widen(narrow(flat)), flat.to(torch.bfloat16).float())
    assert bundle.layout.total == flat.numel()
