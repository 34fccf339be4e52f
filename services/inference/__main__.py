"""The inference process: builds the parts, wires them, and drains them at the end. Decides nothing."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import uvloop
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from liveloop import __version__, keys, tls, tracing
from liveloop.admission import Access, open_access
from liveloop.errors import LiveloopError, Misconfigured, sentence
from liveloop.events import open_intake
from liveloop.policy import Policy
from liveloop.ports import require_free
from liveloop.private import keep_private
from liveloop.settings import Settings, load_settings
from liveloop.telemetry import OperationsServer, gauge, histogram, logger, set_up_logs
from liveloop.v1 import inference_pb2
from liveloop.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from services.inference.batcher import Batcher
from services.inference.limiter import Limiter
from services.inference.requests import MAX_ITEMS
from services.inference.server import InferenceServicer, Serving
from services.inference.tokens import Tokens
from services.inference.updater import Keeper, Updater

if TYPE_CHECKING:
    from liveloop.events.intake import Intake
    from services.inference.pod import Pod

_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_NAMES = (_SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
_CALLS_GRACE = 8.0
"""Seconds for the calls in flight to be answered: a full queue takes less."""
_FLUSH_GRACE = 20.0
"""Seconds for the outbox to reach the broker."""


def main() -> int:
    """Serve until SIGTERM or SIGINT; 2 when it cannot run as configured."""
    argparse.ArgumentParser(
        prog="python -P -m services.inference",
        description="The inference service. Its settings are LIVELOOP_* in the environment and liveloop.toml.",
    ).parse_args()
    sys.setswitchinterval(0.001)  # a flip or the model's Python keeps an answer waiting for this long, not for the default 5 ms
    try:
        settings = load_settings()
        set_up_logs(settings.log_format)
        keep_private(settings.data)
        tracing.set_up("inference")
        uvloop.run(_run(settings))
    except (LiveloopError, OSError) as error:
        print(f"liveloop inference: {sentence(error)}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, Misconfigured) else 1
    finally:
        tracing.shut_down()
        gc.unfreeze()  # else what torch's extensions hold at exit is told as leaks
    return 0


async def _run(settings: Settings) -> None:
    """Take the ports, load, serve until a signal, drain."""
    stopped, stopping, ready = asyncio.Event(), threading.Event(), threading.Event()

    def stop() -> None:
        stopping.set()
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    access = open_access(settings)
    tokens = Tokens(
        keys.token_keys(settings), keys.asker_key(settings), window=settings.feedback_window, read=lambda: keys.token_keys(settings)
    )
    operations = OperationsServer(settings.inference_ops_listen, ready.is_set)
    server = _listen(settings)
    intake = open_intake(settings)
    gauge("build_info").labels(__version__, "inference").set(1)
    try:
        pod = await asyncio.to_thread(_load, settings, stopping)
        if pod is not None:
            async with _serving(settings, server, pod, intake, tokens, access):
                ready.set()
                await stopped.wait()
                ready.clear()
    finally:
        left = await asyncio.to_thread(intake.close, _FLUSH_GRACE)
        logger().log(logging.WARNING if left else logging.INFO, "stopped", events_left_in_outbox=left)
        operations.close()


def _listen(settings: Settings) -> grpc.aio.Server:
    """A server that holds its port; callers wait until it is started. Raises Misconfigured when the port is in use."""
    require_free(settings.inference_listen)
    largest_call = MAX_ITEMS * settings.max_text_bytes + (1 << 20)
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", largest_call)]
    server = grpc.aio.server(options=options, interceptors=[Limiter(settings)])
    try:
        tls.listen(server, settings.inference_listen, tls.grpc_server(settings))
    except RuntimeError as error:  # taken in the moment between
        raise Misconfigured(f"cannot listen on {settings.inference_listen}; choose another port") from error
    return server


def _load(settings: Settings, stopping: threading.Event) -> Pod | None:
    gc.disable()  # nearly everything made here stays: torch imports a second faster, and no later collection walks through it
    from services.inference.pod import load_pod

    pod = load_pod(settings, stopping)
    gc.enable()
    gc.freeze()
    return pod


@asynccontextmanager
async def _serving(
    settings: Settings, server: grpc.aio.Server, pod: Pod, intake: Intake, tokens: Tokens, access: Access
) -> AsyncIterator[None]:
    """Serve inside; on the way out finish what is in flight."""
    batcher = Batcher(pod.compute, limit=settings.queue_limit, batch_tokens=settings.batch_tokens, observe=histogram("batch_size").observe)
    updater, keeper = Updater(pod.subscriber, pod.replica, intake, pod.tally, pod=pod.name), Keeper(pod.subscriber)

    def serving() -> Serving:
        head = pod.subscriber.head
        return Serving(pod.replica.version, head.blessed, head.canary_share)

    servicer = InferenceServicer(
        pod.task,
        batcher,
        intake,
        tokens,
        max_text_bytes=settings.max_text_bytes,
        serving=serving,
        access=access,
        policy=Policy.parse(settings.policy),
        ask_share=settings.ask_share,
        holdout_share=settings.holdout_share,
    )
    add_InferenceServiceServicer_to_server(servicer, server)
    probes = health.aio.HealthServicer()
    add_HealthServicer_to_server(probes, server)
    reflection.enable_server_reflection(_NAMES, server)
    batcher.start()
    for text in ("warm", "warm " * pod.task.bundle.max_tokens):
        await batcher.submit(pod.task.encode([text]))
    updater.start()
    if pod.keeps_copy:
        keeper.start()
    await server.start()
    for name in ("", _SERVICE):
        await probes.set(name, HealthCheckResponse.SERVING)
    logger().info("serving", version=pod.replica.version, address=settings.inference_listen, pod=pod.name)
    yield
    await probes.enter_graceful_shutdown()
    await server.stop(_CALLS_GRACE)
    await batcher.stop()
    keeper.stop()
    await asyncio.to_thread(updater.stop)


if __name__ == "__main__":
    sys.exit(main())
