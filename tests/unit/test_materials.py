"""What a learner refuses to start on: a scope, task data or a journal that do not fit the model that was published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from liveloop import keys
from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from liveloop.tasks.flat import narrow
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from services.learner.materials import load_materials
from services.learner.pretrained import Wanted, load_pretrained
from tests.checkpoints import save_family

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a model made for its head alone."""
    folder = tmp_path_factory.mktemp("learner")
    start = load_pretrained(str(save_family(folder / "model", "bert")), Wanted(scope="head"))
    keys.make_keys(folder / "keys")
    with DirectoryStore(folder / "weights") as store:
        Publisher.first(store, keys.signing_key(Settings(data=folder)), start.bundle, narrow(start.flat)).close()
    return folder


@pytest.mark.parametrize("scope", ["", "head"])
def test_the_scope_of_the_model_needs_no_word(data: Path, scope: str):
    materials = load_materials(Settings(data=data, scope=scope), CPU)
    assert materials.layout.total - materials.layout.frozen == 2 * 32 + 2


@pytest.mark.parametrize("scope", ["no-embeddings", "last-1", "lora-8"])
def test_another_scope_is_refused_with_the_way_to_it(data: Path, scope: str):
    with pytest.raises(Misconfigured, match=f"made for the scope head, .*LIVELOOP_SCOPE.*`liveloop init --data FOLDER --scope {scope}`"):
        load_materials(Settings(data=data, scope=scope), CPU)


def test_task_data_with_a_label_that_the_model_has_not_is_refused_with_the_way_to_it(data: Path):
    (data / "task").mkdir(exist_ok=True)
    (data / "task" / "train.jsonl").write_text(json.dumps({"text": "so so", "label": "neutral"}) + "\n")
    with pytest.raises(Misconfigured, match=r"the label 'neutral', which the model has not; make a model .* in another data folder"):
        load_materials(Settings(data=data), CPU)
    (data / "task" / "train.jsonl").unlink()


@pytest.mark.parametrize("line", ["{", '["text"]', '{"text": "so so"}', '{"text": null, "label": "negative"}'])
def test_a_slice_that_does_not_read_is_refused_with_its_line(data: Path, line: str):
    path = data / "task" / "slices" / "long.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"text": "so so", "label": "negative"}) + "\n" + line + "\n")
    with pytest.raises(Misconfigured, match=r"line 2 of .*long\.jsonl is not a row"):
        load_materials(Settings(data=data), CPU)
    path.unlink()


def test_the_rows_of_a_slice_are_a_split_of_its_name(data: Path):
    (data / "task" / "slices").mkdir(parents=True, exist_ok=True)
    path = data / "task" / "slices" / "long.jsonl"
    path.write_text('{"text": "two\u2028lines", "label": "positive"}\n\n', "utf-8")
    labelled = load_materials(Settings(data=data), CPU).labelled
    assert {row: example.text for row, example in labelled.items()} == {"long:0": "two\u2028lines"}
    path.unlink()
