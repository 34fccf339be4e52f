"""What a learner has before it may write: the model, the task data and the recipe of its steps. Knows the data folder's layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from liveloop import keys
from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from liveloop.tasks import LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.v1.weights_pb2 import Layout, ModelBundle
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.head import read_model
from liveloop.weights.store import WeightStore
from services.learner.evaluator import Evaluator
from services.learner.recipes import new_recipe
from services.learner.scope import SCOPE_FILE, parse
from services.learner.trainer import Recipe, Trainer
from services.learner.verdict import ENOUGH

_TAKEN = ("task", "feedback")
"""Splits that are not the user's."""


@dataclass(frozen=True, slots=True)
class Materials:
    """Read from the data folder; nothing in it needs the lease."""

    store: WeightStore  # the learner's own, always a directory
    key: Ed25519PrivateKey
    epoch: int  # of the store's head
    task: Classification
    layout: Layout
    train: list[LabelledExample]
    labelled: dict[str, LabelledExample]  # by the name of the row: what versions are evaluated on beside feedback
    recipe: Recipe

    def trainer(self, device: torch.device) -> Trainer:
        """A trainer with no weights in it yet."""
        return Trainer(self.task, self.layout, device)

    def evaluator(self, device: torch.device) -> Evaluator:
        """An evaluator on the labelled rows."""
        return Evaluator(self.task, self.layout, self.labelled, device)


def load_materials(settings: Settings, device: torch.device) -> Materials:
    """Read the model that `liveloop init` published and the task data beside it. Raises Misconfigured, WeightsRefused."""
    store, key = DirectoryStore(settings.data / "weights"), keys.signing_key(settings)
    model = read_model(store, key.public_key())
    _check_scope(settings, model.bundle)
    task = Classification(model.bundle)
    train, digest = _rows(settings.data / "task" / "train.jsonl", task.labels)
    labelled = _evaluated(settings.data / "task", task.labels)
    if settings.publish == "gated" and len(labelled) < ENOUGH:
        raise Misconfigured(
            f"publish = gated needs at least {ENOUGH} labelled rows to evaluate on; {settings.data / 'task'} has {len(labelled)}"
        )
    recipe = new_recipe(settings, model.bundle, device, digest)
    return Materials(store, key, model.epoch, task, model.bundle.layout, train, labelled, recipe)


def read_test(folder: Path, labels: tuple[str, ...]) -> list[LabelledExample]:
    """The test rows of the task data in `folder`; none where there is no file. Raises Misconfigured."""
    return _rows(folder / "test.jsonl", labels)[0]


def _check_scope(settings: Settings, bundle: ModelBundle) -> None:
    """The layout was made for one scope; a bundle of before there were scopes says nothing."""
    asked, made = parse(settings.scope), bundle.files.get(SCOPE_FILE, b"").decode()
    if settings.scope and made and str(asked) != made:
        raise Misconfigured(
            f"the model in {settings.data} was made for the scope {made}, and LIVELOOP_SCOPE asks for {asked}: leave that setting out, "
            f"or make a model for it in another data folder, `liveloop init --data FOLDER --scope {asked}`"
        )


def choose_device(settings: Settings) -> torch.device:
    """A GPU where there is one, unless told otherwise. Raises Misconfigured when it cannot be used."""
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise Misconfigured(f"the device {settings.device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _evaluated(folder: Path, labels: tuple[str, ...]) -> dict[str, LabelledExample]:
    """The validation rows as "task:N", and those of each file slices/NAME.jsonl as "NAME:N". Raises Misconfigured."""
    files = {"task": folder / "validation.jsonl"}
    for path in sorted((folder / "slices").glob("*.jsonl")):
        if path.stem in _TAKEN:
            raise Misconfigured(f"a slice cannot be named {path.stem!r}: rename {path}")
        files[path.stem] = path
    return {f"{split}:{number}": row for split, path in files.items() for number, row in enumerate(_rows(path, labels)[0])}


def _rows(path: Path, labels: tuple[str, ...]) -> tuple[list[LabelledExample], str]:
    """Labelled rows and the digest of their file; none where there is no file."""
    if not path.exists():
        return [], ""
    content = path.read_bytes()
    index = {label: number for number, label in enumerate(labels)}
    rows = [_row(path, number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    unknown = {label for _, label in rows} - index.keys()
    if unknown:
        raise Misconfigured(
            f"{path} has the label {min(unknown)!r}, which the model has not; "
            "make a model for this data in another data folder, `liveloop init --data FOLDER --task-data FILE`"
        )
    return [LabelledExample(text, index[label]) for text, label in rows], blake3(content).hexdigest()


def _row(path: Path, number: int, line: bytes) -> tuple[str, str]:
    """Text and label."""
    try:
        row = json.loads(line)
        text, label = row["text"], row["label"]
    except (ValueError, KeyError, TypeError):
        text = label = None
    if not (isinstance(text, str) and isinstance(label, str)):
        raise Misconfigured(f'line {number} of {path} is not a row {{"text": ..., "label": ...}}')
    return text, label
