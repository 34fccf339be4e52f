"""The learner's process: builds the parts, takes the lease, runs the loop until told to stop. Decides nothing."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

import torch
from blake3 import blake3
from liveloop.weights.mirror import Mirror
from liveloop.weights.publisher import Publisher, read_model

from liveloop import __version__, keys, telemetry
from liveloop.errors import Misconfigured, NotFound, WeightsRefused
from liveloop.events import open_log
from liveloop.settings import Settings, load_settings
from liveloop.tasks import LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.weights import open_store
from liveloop.weights.directory import DirectoryStore
from services.learner.evaluator import Evaluator
from services.learner.joiner import Joiner
from services.learner.journal import Journal, LeaseLost
from services.learner.loop import LearnerLoop, Pace, Parts
from services.learner.micro_batch import MicroBatches
from services.learner.redo import Unequal, redo
from services.learner.server import serve
from services.learner.tensors import TensorCache
from services.learner.trainer import Recipe, Trainer
from services.learner.view import JournalView

_STANDBY_POLL = 0.5
_NICE = 10
"""On a shared processor serving goes first."""

_log = telemetry.logger(part="learner")


class Stop:
    """SIGTERM or SIGINT was received; tells the loop under way."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.loop: LearnerLoop | None = None
        signal.signal(signal.SIGTERM, self)
        signal.signal(signal.SIGINT, self)

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.event.set()
        if self.loop is not None:
            self.loop.stop()


def main() -> int:
    """Run until a signal; 2 when it cannot run as configured."""
    try:
        settings = load_settings()
        telemetry.set_up_logs(settings.log_format)
        _run(settings, Stop())
    except Misconfigured as error:
        print(f"liveloop learner: {error.reason}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _run(settings: Settings, stop: Stop) -> None:
    if not settings.data.is_dir():
        raise Misconfigured(f"there is no data folder {settings.data}; `liveloop init --data {settings.data}` makes one")
    device = _device(settings)
    threads = settings.learner_threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    if device.type == "cpu":
        os.nice(_NICE)
    ready = threading.Event()
    journal = Journal(settings.data / "learner.db", holder=f"{socket.gethostname()}:{os.getpid()}")
    operations = telemetry.OperationsServer(settings.learner_ops_listen, ready.is_set)
    server = serve(settings.learner_listen, JournalView(settings.data / "learner.db"))
    telemetry.gauge("build_info").labels(__version__, "learner").set(1)
    try:
        while not stop.event.is_set():
            try:
                _lead(settings, device, threads, journal, ready, stop)
            except LeaseLost:
                _log.warning("another learner took over; this one stands by")
    finally:
        server.stop(grace=1.0)
        operations.close()
        journal.close()


def _lead(settings: Settings, device: torch.device, threads: int, journal: Journal, ready: threading.Event, stop: Stop) -> None:
    """Stand by until the lease is free, then run the loop until stopped. Raises LeaseLost."""
    store = DirectoryStore(settings.data / "weights")
    key = keys.signing_key(settings)
    model = read_model(store, key.public_key())
    task = Classification(model.bundle)
    train, train_digest = _task_rows(settings.data / "task" / "train.jsonl", task.labels)
    validation, _ = _task_rows(settings.data / "task" / "validation.jsonl", task.labels)
    trainer = Trainer(task, model.bundle.layout, device)
    evaluator = Evaluator(task, model.bundle.layout, {f"task:{index}": row for index, row in enumerate(validation)}, device)
    recipe = Recipe(
        learning_rate=settings.learning_rate,
        feedback_weight=settings.feedback_weight,
        ema_decay=settings.ema_decay,
        clip_norm=settings.clip_norm,
        micro_batch=settings.micro_batch,
        seed=settings.seed,
        task_data=train_digest,
        threads=threads,
        device=f"{device} {torch.cuda.get_device_name(device) if device.type == 'cuda' else platform.processor() or platform.machine()}",
        torch=torch.__version__,
    )
    ready.set()
    telemetry.gauge("learner_active").set(0)
    while not journal.acquire(at_least=model.epoch):
        if stop.event.wait(_STANDBY_POLL):
            return
    telemetry.gauge("learner_active").set(1)
    with open_log(settings) as log, Publisher(store, key, epoch=journal.epoch) as publisher:
        mirror = None if settings.weights.startswith("file:") else Mirror(store, open_store(settings.weights))
        parts = Parts(
            log=log,
            journal=journal,
            joiner=Joiner(journal.db, labels=task.labels, window=settings.feedback_window),
            batches=MicroBatches(journal.db, train, task.labels),
            trainer=trainer,
            evaluator=evaluator,
            publisher=publisher,
            tensors=TensorCache(settings.data / "tensors", history=settings.history),
            mirror=mirror,
        )
        resume(parts, recipe)
        if mirror is not None:
            mirror.start()
        pace = Pace(settings.step_interval, settings.micro_batch_limit, settings.history)
        stop.loop = LearnerLoop(parts, recipe, pace)
        if stop.event.is_set():
            stop.loop.stop()
        _log.info("learning", version=publisher.head.current, epoch=journal.epoch, device=str(device), threads=threads)
        try:
            stop.loop.run()
            stop.loop.save()
            journal.release()
        finally:
            stop.loop = None
            parts.tensors.close()
            if mirror is not None:
                mirror.close(5.0)


def resume(parts: Parts, recipe: Recipe) -> None:
    """Bring the trainer to where the journal stands; an unequal redo goes on from what is served, in a row that says so."""
    journal, publisher, trainer = parts.journal, parts.publisher, parts.trainer
    if journal.last() is None:
        trainer.reset(publisher.state.bits)
        journal.change("init", recipe, {}, publisher.state.digest, version=publisher.head.current)
        link = publisher.head.chain[-1]
        journal.published(link.version, parent=0, manifest=link.manifest, patch_bytes=link.patch_bytes)
        return
    parts.gate.held = journal.is_held()
    try:
        redo(
            journal,
            trainer,
            parts.batches,
            lambda version: publisher.load(version, journal.manifest(version)),
            cached=parts.tensors.newest(),
            alive=journal.renew,
        )
    except Unequal as error:
        _log.warning("the journal cannot be redone to the bit here; going on from the redone state", reason=error.reason)
        trainer.reset(trainer.bits.copy())
        journal.change("rebase", recipe, {"why": error.reason}, publisher.stage(trainer.bits).digest)
    except (NotFound, WeightsRefused) as error:
        _log.warning("the journal cannot be redone; going on from what is served", reason=error.reason)
        trainer.reset(publisher.state.bits)
        journal.reset(publisher.head.current, recipe, publisher.state.digest, error.reason)


def _device(settings: Settings) -> torch.device:
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise Misconfigured(f"the device {settings.device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _task_rows(path: Path, labels: tuple[str, ...]) -> tuple[list[LabelledExample], str]:
    """Labelled rows and the digest of their file; none where there is no file."""
    if not path.exists():
        return [], ""
    content = path.read_bytes()
    index = {label: number for number, label in enumerate(labels)}
    rows = [json.loads(line) for line in content.decode().splitlines()]
    unknown = {row["label"] for row in rows} - index.keys()
    if unknown:
        raise Misconfigured(f"{path} has the label {min(unknown)!r}, which the model has not; run `liveloop init` with this data")
    return [LabelledExample(row["text"], index[row["label"]]) for row in rows], blake3(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
