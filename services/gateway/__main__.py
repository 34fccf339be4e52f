"""Starts the gateway: builds the stubs, the application and the listeners, and ends them. Configured by the settings alone."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys

import grpc.aio
import uvicorn
import uvloop

from liveloop import __version__, telemetry, tls, tracing
from liveloop.admission import open_access
from liveloop.errors import Misconfigured
from liveloop.ports import family
from liveloop.rpc import CHANNEL_OPTIONS
from liveloop.settings import Settings, host_port, load_settings
from liveloop.v1.inference_pb2_grpc import InferenceServiceStub
from liveloop.v1.learner_pb2_grpc import LearnerServiceStub
from services.gateway.app import create_app
from services.gateway.wire import BoundedHttp

_GRACE = 10  # seconds for answers in flight at the end


class Server(uvicorn.Server):
    """Uvicorn, whose signals are ours: it would end by the signal again, where a clean end is exit code 0."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override] # a generator there, a context here
        """Leave them alone."""
        return contextlib.nullcontext()

    def end(self) -> None:
        """Take no more, finish what is in flight."""
        self.should_exit = True


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        Misconfigured: an address is wrong, or its port is in use.
    """
    open_access(settings)
    listener = _listen(settings.gateway_listen)
    inference = _channel(settings.inference_target or settings.inference_listen, settings)
    learner = _channel(settings.learner_target or settings.learner_listen, settings)
    async with inference, learner:
        app = create_app(InferenceServiceStub(inference), LearnerServiceStub(learner), settings)
        config = uvicorn.Config(
            app,
            http=BoundedHttp,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE,
        )
        config.load()
        config.ssl = tls.https(settings)
        server = Server(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.end)
        operations = telemetry.OperationsServer(settings.gateway_ops_listen, lambda: server.started and not server.should_exit)
        telemetry.gauge("build_info").labels(__version__, "gateway").set(1)
        telemetry.logger(service="gateway").info("listening", address=settings.gateway_listen)
        try:
            await server.serve(sockets=[listener])
        finally:
            operations.close()


def main() -> int:
    """The process; the exit code."""
    argparse.ArgumentParser(
        prog="python -P -m services.gateway",
        description="The HTTP gateway. Its settings are LIVELOOP_* in the environment and liveloop.toml.",
    ).parse_args()
    try:
        settings = load_settings()
        telemetry.set_up_logs(settings.log_format)
        tracing.set_up("gateway")
        uvloop.run(serve(settings))
    except Misconfigured as error:
        sys.stderr.write(f"liveloop gateway: {error.reason}\n")
        return 2
    finally:
        tracing.shut_down()
    return 0


def _channel(address: str, settings: Settings) -> grpc.aio.Channel:
    credentials = tls.channel_to(settings)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def _listen(address: str) -> socket.socket:
    host, port = host_port(address)
    try:
        return socket.create_server((host, port), family=family(host), backlog=2048)
    except OSError as error:
        raise Misconfigured(f"cannot listen on {address} ({error.strerror}); is liveloop already running? choose another port") from error


if __name__ == "__main__":
    sys.exit(main())
