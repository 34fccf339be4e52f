"""What the learner does by default with a model, and how it is told: the feedback loss and the learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from liveloop import cli, keys
from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from liveloop.tasks.objectives import LOSSES
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from services.learner.materials import load_materials
from services.learner.recipes import choose_objective, default_learning_rate
from services.learner.scope import parse
from tests.tiny import tiny_bundle

THREE = ("bad", "fair", "good")


def made(folder: Path, labels: tuple[str, ...], scope: str) -> Path:
    """A data folder with a tiny model."""
    bundle, bits = tiny_bundle(labels)
    bundle.files["scope"] = scope.encode()
    keys.make_keys(folder / "keys")
    with DirectoryStore(folder / "weights") as store:
        Publisher.first(store, keys.signing_key(Settings(data=folder)), bundle, bits).close()
    return folder


def test_the_setting_names_the_losses_that_there_are():
    assert get_args(Settings.model_fields["objective"].annotation) == ("auto", *LOSSES)


def test_cross_entropy_on_thumbs_is_refused_at_the_start_for_three_labels(tmp_path: Path):
    with pytest.raises(Misconfigured, match="needs two labels, and the model has 3"):
        load_materials(Settings(data=made(tmp_path, THREE, "head"), objective="cross_entropy"), torch.device("cpu"))
    assert choose_objective("cross_entropy", 2).loss == "cross_entropy"


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_auto_is_complementary_and_says_why(labels: int):
    chosen = choose_objective("auto", labels)
    assert chosen.loss == "complementary" and chosen.why


def test_the_fewer_weights_move_the_further_each_may():
    rates = [default_learning_rate("adamw", parse(scope)) for scope in ("all", "last-6", "last-2", "last-1", "lora-8", "head")]
    assert rates == sorted(rates) and rates[0] == rates[1] < rates[2] < rates[3] < rates[4]


@pytest.mark.parametrize(
    ("changes", "rate"),
    [({}, 1e-3), ({"learning_rate": 2e-6}, 2e-6), ({"optimizer": "sgd"}, default_learning_rate("sgd", parse("head")))],
)
def test_a_recipe_holds_what_was_chosen(tmp_path: Path, changes: dict[str, Any], rate: float):
    recipe = load_materials(Settings(data=made(tmp_path, THREE, "head"), **changes), torch.device("cpu")).recipe
    assert (recipe.objective, recipe.learning_rate) == ("complementary", rate)


def test_the_menu_says_when_to_use_what_and_what_the_model_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["objectives", "--data", str(made(tmp_path, THREE, "lora-8"))])
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and all(name in said for name in LOSSES)
    assert "has 3 labels and learns by complementary: a thumb down on one of 3 labels says what is wrong" in said
    assert "Of it lora-8 is trained, by adamw with a learning rate of 0.001." in said


def test_the_menu_needs_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["objectives", "--data", str(tmp_path / "none")])
    assert "auto is complementary" in capsys.readouterr().out and not (tmp_path / "none").exists()
