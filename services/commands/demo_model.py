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
from services.commands.assets import Assets, demo_assets
from services.commands.initial import check_empty, publish
from services.commands.raters import LABELS, RatedText, read_study
from services.learner.task_data import Row, TaskData

_MAX_TOKENS = 64  # a review's sentence or a tweet: 1 in 1,000 is longer
_PLAN = {"epochs": 2, "learning_rate": 1e-4, "seconds": 55.0}


def prepare_demo(settings: Settings, console: Console) -> None:
    """Initialise the data folder with the demo's model and tweets, fetched where they are not there yet.

    Raises:
        Misconfigured: the folder is initialised already or cannot be written, or the download failed.
    """
    check_empty(settings)
    publish(settings, *demo_start(settings, console), console)


def demo_start(settings: Settings, console: Console) -> tuple[ModelBundle, np.ndarray, TaskData]:
    """The demo's model, its first state (bf16 bit patterns, uint16, [layout.total]) and the tweets. Raises Misconfigured."""
    assets = demo_assets(settings.cache, console)
    study = read_study(assets.study)
    data = TaskData(train=_rows(study.tweets_train), validation=_rows(study.tweets_validation), test=_rows(study.tweets_test))
    cached = settings.cache.expanduser() / "warm-starts" / _key(assets, data, settings)
    if (start := _read(cached)) is not None:
        console.print(f"The warm start on {len(data.train):,} labelled tweets was done before: taken from {cached.parent}.")
    else:
        start = _warm_start(settings, assets, data, cached, console)
    return *start, data


def _warm_start(settings: Settings, assets: Assets, data: TaskData, cached: Path, console: Console) -> tuple[ModelBundle, np.ndarray]:
    console.print(f"Warm start on {len(data.train):,} labelled tweets, at most {_PLAN['seconds']:.0f} s:")
    import torch  # seconds to import, and a second run needs none of it

    from liveloop.tasks.flat import narrow
    from services.commands.training import train_with_bar
    from services.learner.pretrained import Wanted, load_pretrained
    from services.learner.warm_start import Plan

    torch.set_num_threads(settings.learner_threads or os.cpu_count() or 1)
    wanted = Wanted(labels=LABELS, max_tokens=_MAX_TOKENS, scope=settings.scope, name="all-MiniLM-L6-v2")
    start = load_pretrained(str(assets.model), wanted)
    plan = Plan(epochs=int(_PLAN["epochs"]), learning_rate=_PLAN["learning_rate"], seconds=_PLAN["seconds"])
    trained = train_with_bar(start.bundle, start.flat, data, plan, console)
    bits = narrow(trained.flat)
    if trained.complete:
        try:
            _write(cached, start.bundle, bits)
        except OSError as error:
            console.print(f"The warm start is not kept for the next time: {sentence(error)}.")
    return start.bundle, bits


def _key(assets: Assets, data: TaskData, settings: Settings) -> str:
    """Digest of everything the warm start depends on; the model's files are pinned by theirs."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    rows = [[row.text, row.label] for row in data.rows]
    everything = [assets.model.name, rows, LABELS, _MAX_TOKENS, _PLAN, settings.scope, versions]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


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
