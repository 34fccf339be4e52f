"""The learner's process: builds the parts, takes the lease, runs the loop until told to stop. Decides nothing."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import sys
import threading
from contextlib import closing
from functools import partial
from types import FrameType

import torch

from liveloop import __version__, keys, telemetry, tls, tracing
from liveloop.admission import open_access
from liveloop.errors import HeadConflict, LiveloopError, Misconfigured, Unavailable, WeightsRefused, sentence
from liveloop.events import SEGMENT, open_log
from liveloop.private import keep_private
from liveloop.settings import Settings, load_settings
from liveloop.weights import open_store
from liveloop.weights.manifest import open_head
from liveloop.weights.mirror import Mirror
from liveloop.weights.store import WeightStore
from services.learner.assembly import assemble, new_loop, new_publisher
from services.learner.journal import Journal
from services.learner.lease import LeaseLost
from services.learner.loop import LearnerLoop
from services.learner.materials import Materials, choose_device, load_materials
from services.learner.orders import Orders
from services.learner.resume import resume
from services.learner.server import Askers, serve
from services.learner.view import JournalView

_STANDBY_POLL = 0.5
"""Seconds between two looks at a lease that somebody else holds."""
_NICE = 10
"""On a shared processor serving goes first."""

_log = telemetry.logger(part="learner")


class Stop:
    """Whether SIGTERM or SIGINT was received; tells the loop under way."""

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
    """Run until a signal; 2 when it cannot run as configured, 1 when it ends for another reason and may be started again."""
    argparse.ArgumentParser(
        prog="python -P -m services.learner",
        description="The learner. Its settings are LIVELOOP_* in the environment and liveloop.toml.",
    ).parse_args()
    try:
        settings = load_settings()
        telemetry.set_up_logs(settings.log_format)
        tracing.set_up("learner")
        _run(settings, Stop())
    except (LiveloopError, OSError) as error:
        print(f"liveloop learner: {sentence(error)}", file=sys.stderr)  # noqa: T201  what `liveloop up` shows
        return 2 if isinstance(error, Misconfigured) else 1
    finally:
        tracing.shut_down()
    return 0


def _run(settings: Settings, stop: Stop) -> None:
    if not settings.data.is_dir():
        raise Misconfigured(f"there is no data folder {settings.data}; `liveloop init --data {settings.data}` makes one")
    keep_private(settings.data)
    keys.signing_key(settings)
    access = open_access(settings)
    ready = threading.Event()
    operations = telemetry.OperationsServer(settings.learner_ops_listen, ready.is_set)
    telemetry.gauge("build_info").labels(__version__, "learner").set(1)
    telemetry.gauge("learner_active").set(0)
    telemetry.announce(
        "dead_letters_total",
        "dead_letters_dropped_total",
        "feedback_outcomes_total",
        "learner_steps_total",
        "versions_published_total",
        "guard_decisions_total",
        "patch_bytes",
    )
    journal = Journal(settings.data / "learner.db", holder=_holder())
    orders = Orders()
    view = JournalView(settings.data / "learner.db", canary_share=settings.canary_share)
    server = serve(settings.learner_listen, view, orders, _askers(settings), access, tls.grpc_server(settings))
    device = choose_device(settings)
    materials = load_materials(settings, device)
    torch.set_num_threads(materials.recipe.threads)
    if device.type == "cpu":
        os.nice(_NICE)
    above = materials.epoch
    try:
        while not stop.event.is_set():
            try:
                _lead(settings, materials, device, journal, orders, ready, stop, above=above)
            except LeaseLost:
                _log.warning("another learner took over; this one stands by")
            except HeadConflict as error:
                _log.warning("a newer epoch is out there; taking the lease again above it", reason=error.reason)
                above = _newest_epoch(settings, materials)
    finally:
        server.stop(grace=1.0)
        operations.close()
        journal.close()


def _askers(settings: Settings) -> Askers:
    """The embedded log lets go of what was read and is older than the window, Kafka's topic of whole segments."""
    stay = settings.feedback_window if settings.events.startswith("sqlite:") else settings.retention * (1 + SEGMENT)
    return Askers(partial(keys.asker_key, settings), stay)


def _holder() -> str:
    """Whose lease it is: containers may share a host name and a process id."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def _lead(
    settings: Settings,
    materials: Materials,
    device: torch.device,
    journal: Journal,
    orders: Orders,
    ready: threading.Event,
    stop: Stop,
    *,
    above: int,
) -> None:
    """Stand by until the lease is free, take it with an epoch above `above` and run the loop until stopped.

    Raises:
        LeaseLost: another process took over.
        HeadConflict: a store is at a newer epoch.
    """
    trainer = materials.trainer(device)
    ready.set()
    while not journal.acquire(at_least=above):
        if stop.event.wait(_STANDBY_POLL):
            return
    telemetry.gauge("learner_active").set(1)
    remote = _remote(settings)
    mirror = None if remote is None else Mirror(materials.store, remote, take_over=settings.take_over)
    try:
        with journal.held(), open_log(settings) as log, new_publisher(settings, materials, journal) as publisher:
            parts = assemble(settings, materials, trainer, journal, log, publisher, mirror=mirror, orders=orders)
            with closing(parts.tensors):
                resume(parts, materials.recipe)
                if mirror is not None:
                    mirror.start()
                stop.loop = new_loop(settings, materials, parts)
                if stop.event.is_set():
                    stop.loop.stop()
                _log.info("learning", version=publisher.head.current, epoch=journal.epoch, device=materials.recipe.device)
                stop.loop.run()
                stop.loop.save()
                journal.release()
    finally:
        stop.loop = None
        telemetry.gauge("learner_active").set(0)
        if mirror is not None:
            mirror.close(5.0)
        if remote is not None:
            remote.close()


def _remote(settings: Settings) -> WeightStore | None:
    """The store to mirror to, where there is one beside the learner's own."""
    if settings.weights.startswith("file:"):
        return None
    return open_store(settings.weights, password_file=settings.redis_password_file, ca_file=settings.redis_ca_file)


def _newest_epoch(settings: Settings, materials: Materials) -> int:
    """The greatest epoch of the heads that we signed; a store that cannot be reached is asked again after the next conflict."""
    remote = _remote(settings)
    if remote is None:
        return _epoch_of(materials.store, materials)
    with remote:
        return max(_epoch_of(materials.store, materials), _epoch_of(remote, materials))


def _epoch_of(store: WeightStore, materials: Materials) -> int:
    try:
        blob = store.head()
        return 0 if blob is None else int(open_head(blob, materials.key.public_key()).epoch)
    except (Unavailable, WeightsRefused):
        return 0


if __name__ == "__main__":
    sys.exit(main())
