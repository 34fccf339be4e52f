"""An initialised data folder: keys, task data and version 1. Knows what belongs in it, not how its model was made."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from liveloop.errors import Misconfigured
from liveloop.keys import make_keys, signing_key
from liveloop.settings import Settings
from liveloop.v1.weights_pb2 import ModelBundle
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from services.learner.task_data import TaskData, write_task


def check_empty(settings: Settings) -> None:
    """Raises Misconfigured where the data folder holds a version already."""
    if any((settings.data / "weights" / "heads").glob("*")):
        raise Misconfigured(f"{settings.data} is initialised already: name another folder with --data, or remove this one")


def publish(settings: Settings, bundle: ModelBundle, bits: np.ndarray, data: TaskData, console: Console) -> None:
    """Write keys, task data and, last, version 1 (`bits`: bf16 bit patterns, uint16, [layout.total]): one broken off can be begun again.

    Raises:
        Misconfigured: the folder cannot be written.
    """
    try:
        make_keys(settings.data / "keys")
        write_task(settings.data / "task", data)
        with DirectoryStore(settings.data / "weights") as store:
            Publisher.first(store, signing_key(settings), bundle, bits).close()
    except OSError as error:
        raise Misconfigured(f"the data folder {settings.data} cannot be written ({error.strerror})") from error
    console.print(f"Published version 1 in {settings.data}.")
