"""Runs of a measurement that are finished, kept by digest of code, settings and job, so that a bench goes on. Knows no figure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from liveloop.errors import sentence
from liveloop.settings import Settings

_SOURCES = ("liveloop/tasks", "services/learner", "services/commands/bench")
_ROOT = Path(__file__).parents[3]
_NOT_LEARNING = {"data", "cache", "seed", "log_format", "learner_threads", "inference_threads", "pod"}
"""Settings that change no figure, or that stand in a job beside them; so do all addresses, files and URLs."""


def once(settings: Settings, folder: str, job: Mapping[str, Any], make: Callable[[], dict[str, Any]], console: Console) -> dict[str, Any]:
    """What `make` found for `job` (JSON), taken from the cache's `folder` where the same code did it before with the same settings."""
    stored = settings.cache.expanduser() / folder / f"{_digest(settings, job)}.json"
    if stored.exists():
        return dict(json.loads(stored.read_text("utf-8"))["found"])
    found = make()
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps({"job": job, "found": found}), "utf-8")
    except OSError as error:
        console.print(f"The run is not kept for the next time: {sentence(error)}.")
    return found


def _digest(settings: Settings, job: Mapping[str, Any]) -> str:
    """Of the code that learns, of the data (the code names it by digest) and of everything that is set."""
    code = [path.read_bytes() for folder in _SOURCES for path in sorted((_ROOT / folder).glob("*.py"))]
    kept = settings.model_dump(mode="json", exclude=_NOT_LEARNING)
    kept = {name: value for name, value in kept.items() if not name.endswith(("_file", "_listen", "_target", "_url"))}
    content = json.dumps([job, kept, torch.__version__], sort_keys=True).encode()
    return hashlib.sha256(b"\0".join([*code, content])).hexdigest()[:32]
