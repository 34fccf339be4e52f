"""The demo's model: all-MiniLM-L6-v2 warm-started on labelled tweets, once per machine. Knows the cache; knows no running service."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from rich.console import Console

from liveloop.errors import sentence
from liveloop.settings import Settings
from liveloop.v1.weights_pb2 import ModelBundle
from services.commands.assets import demo_assets
from services.commands.initial import check_empty, publish
from services.commands.raters import LABELS, RatedText, read_study
from services.learner.task_data import Row, TaskData

_MAX_TOKENS = 64  # a review's sentence or a tweet: 1 in 1,000 is longer
_SECONDS = 55.0


def prepare_demo(settings: Settings, console: Console) -> None:
    """Initialise the data folder with the demo's model and tweets, fetched where they are not there yet.

    Raises:
        Misconfigured: the folder is initialised already or cannot be written, or the download failed.
    """
    check_empty(settings)
    publish(settings, *demo_start(settings, console), console)


def demo_start(settings: Settings, console: Console) -> tuple[ModelBundle, np.ndarray, TaskData]:
    """The demo's model, its first state (bf16 bit patterns, uint16, [layout.total]) and the tweets. Raises Misconfigured."""
    study = read_study(demo_assets(settings.cache, console).study)
    data = TaskData(train=_rows(study.tweets_train), validation=_rows(study.tweets_validation), test=_rows(study.tweets_test))
    return *warm_start(settings, data, LABELS, console, max_tokens=_MAX_TOKENS), data


def warm_start(
    settings: Settings, data: TaskData, labels: Sequence[str], console: Console, *, epochs: int = 2, max_tokens: int = _MAX_TOKENS
) -> tuple[ModelBundle, np.ndarray]:
    """all-MiniLM-L6-v2 trained on labelled rows: its bundle and state (bf16 bit patterns, uint16, [layout.total]). Raises Misconfigured."""
    assets = demo_assets(settings.cache, console)
    plan = {"epochs": epochs, "learning_rate": 1e-4, "seconds": _SECONDS}
    everything = [assets.model.name, [[row.text, row.label] for row in data.rows], labels, max_tokens, plan, settings.scope, _versions()]
    key = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]
    cached = settings.cache.expanduser() / "warm-starts" / key
    if (start := _read(cached)) is not None:
        console.print(f"The warm start on {len(data.train):,} labelled texts was done before: taken from {cached.parent}.")
        return start
    console.print(f"Warm start on {len(data.train):,} labelled texts, at most {_SECONDS:.0f} s:")
    import torch  # seconds to import, and a second run needs none of it

    from liveloop.tasks.flat import narrow
    from services.commands.training import train_with_bar
    from services.learner.pretrained import Wanted, load_pretrained
    from services.learner.warm_start import Plan

    torch.set_num_threads(settings.learner_threads or os.cpu_count() or 1)
    wanted = Wanted(labels=labels, max_tokens=max_tokens, scope=settings.scope, name="all-MiniLM-L6-v2")
    begun = load_pretrained(str(assets.model), wanted)
    trained = train_with_bar(begun.bundle, begun.flat, data, Plan(epochs=epochs, learning_rate=1e-4, seconds=_SECONDS), console)
    bits = narrow(trained.flat)
    if trained.complete:
        try:
            _write(cached, begun.bundle, bits)
        except OSError as error:
            console.print(f"The warm start is not kept for the next time: {sentence(error)}.")
    return begun.bundle, bits


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}


def _read(folder: Path) -> tuple[ModelBundle, np.ndarray] | None:
    try:
        bundle = ModelBundle.FromString((folder / "bundle.pb").read_bytes())
        bits = np.load(folder / "state.npy", allow_pickle=False)
    except (OSError, ValueError, DecodeError):
        return None
    return (bundle, bits) if bits.dtype == np.uint16 and bits.shape == (bundle.layout.total,) else None


def _write(folder: Path, bundle: ModelBundle, bits: np.ndarray) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as name:
        made = Path(name) / "made"
        made.mkdir()
        (made / "bundle.pb").write_bytes(bundle.SerializeToString())
        np.save(made / "state.npy", bits)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _rows(items: Sequence[RatedText]) -> list[Row]:
    return [Row(item.text, item.label) for item in items]
