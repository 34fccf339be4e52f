"""A pod before it answers: a verified version, a model that computes from it. Knows weights and tasks; knows no gRPC."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from liveloop import keys
from liveloop.errors import Unavailable, WeightsRefused
from liveloop.events.locks import try_lock
from liveloop.settings import Settings
from liveloop.tasks import Answer, Encoded, Task
from liveloop.tasks.classification import Classification
from liveloop.telemetry import logger
from liveloop.weights import open_store
from liveloop.weights.channels import Channel
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.subscriber import Subscriber
from services.inference.replica import Replica
from services.inference.tally import Tally

_RETRY = 1.0


@dataclass(frozen=True, slots=True)
class Pod:
    """A version in memory, ready to be served and to be updated."""

    name: str
    subscriber: Subscriber
    task: Task
    replica: Replica
    tally: Tally
    keeps_copy: bool  # the store is on another machine: a last good copy is kept on this one

    def compute(self, inputs: Sequence[Encoded], channel: Channel) -> tuple[Channel, int, Sequence[Answer]]:
        """Answer one batch with one version of this channel, or of CURRENT where this one is not in use."""
        with self.replica.acquire(channel) as held, self.tally.count((held.channel, held.version), len(inputs)):
            return held.channel, held.version, self.task.answer(held.model, inputs)


def load_pod(settings: Settings, stopping: threading.Event) -> Pod | None:
    """Wait for a version that can be verified, and load it; None when `stopping` was set meanwhile. Raises Misconfigured."""
    torch.set_num_threads(settings.inference_threads or max(1, (os.cpu_count() or 2) // 2))  # the other half is the learner's
    distributed = not settings.weights.startswith("file:")
    local = DirectoryStore(_copy_folder(settings)) if distributed else None
    store = open_store(settings.weights, password_file=settings.redis_password_file, ca_file=settings.redis_ca_file)
    subscriber = Subscriber(store, keys.verify_key(settings), local=local, holdout=settings.holdout_share > 0.0)
    if not _start(subscriber, stopping):
        return None
    task = Classification(subscriber.bundle)
    replica = Replica(task, subscriber.layout, subscriber.state.bits, subscriber.version)
    for channel in subscriber.served.keys() - {Channel.CURRENT}:
        replica.open(channel, subscriber.served[channel].state.bits, subscriber.served[channel].version)
    name = settings.pod or f"{socket.gethostname()}-{os.getpid()}"
    return Pod(name, subscriber, task, replica, Tally(), keeps_copy=distributed)


def _start(subscriber: Subscriber, stopping: threading.Event) -> bool:
    told = ""
    while not stopping.is_set():
        try:
            subscriber.start()
            return True
        except (Unavailable, WeightsRefused) as error:
            if error.reason != told:
                logger().warning("waiting for weights that can be served", reason=error.reason, code=error.code)
            told = error.reason
            stopping.wait(_RETRY)
    return False


def _copy_folder(settings: Settings) -> Path:
    """Where this pod keeps its last good copy: by its name, else the first number that no other process here holds."""
    folder = settings.data / "pods"
    folder.mkdir(parents=True, exist_ok=True)
    if settings.pod:
        return folder / settings.pod
    return next(folder / str(number) for number in itertools.count() if try_lock(folder / f"{number}.lock"))
