"""TLS of the listeners, over real connections: certificates that change under a running server, and callers who must show one."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server

from liveloop import Client, Unavailable, tls
from liveloop.errors import Misconfigured
from liveloop.rpc import channel_credentials
from liveloop.settings import Settings
from services.commands.processes import Loop, free_settings
from tests.certificates import Authority
from tests.servers import free_port
from tests.unit.fake_services import FakeLoop, serve

HERE = "127.0.0.1"


class Shown:
    """The files that a server is set up with, which a test replaces."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.settings = Settings(data=folder, tls_cert_file=folder / "shown.pem", tls_key_file=folder / "shown.pem")

    def show(self, pair: Path) -> None:
        """Replace the certificate and its key in one rename, as an ACME client does."""
        fresh = self._folder / "fresh.pem"
        shutil.copy(pair, fresh)
        fresh.replace(self._folder / "shown.pem")


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    return Shown(tmp_path)


@contextmanager
def blocking_server(settings: Settings) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    address = f"{HERE}:{free_port()}"
    servicer = health.HealthServicer()
    add_HealthServicer_to_server(servicer, server)
    tls.listen(server, address, tls.grpc_server(settings))
    server.start()
    try:
        yield address
    finally:
        server.stop(None).wait()


@contextmanager
def aio_server(settings: Settings) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    address = f"{HERE}:{free_port()}"

    async def start() -> grpc.aio.Server:
        server = grpc.aio.server()
        add_HealthServicer_to_server(health.aio.HealthServicer(), server)
        tls.listen(server, address, tls.grpc_server(settings))
        await server.start()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield address
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def answers(address: str, ca: Path, cert: Path | None = None) -> bool:
    """Whether the server answers a caller who trusts `ca` alone and shows `cert`."""
    credentials = channel_credentials(ca, cert)
    assert credentials is not None
    with grpc.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            status = HealthStub(channel).Check(HealthCheckRequest(), timeout=20).status
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False
        return status == HealthCheckResponse.SERVING


@pytest.mark.parametrize("server", [blocking_server, aio_server])
def test_a_certificate_that_changes_is_shown_to_the_next_caller_and_a_broken_one_never(
    tmp_path: Path, shown: Shown, server: Callable[[Settings], Iterator[str]]
):
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    shown.show(first.server(HERE))
    with server(shown.settings) as address:
        assert answers(address, first.file)
        assert not answers(address, second.file)
        shown.show(second.file)  # a certificate without a key
        assert answers(address, first.file)
        shown.show(second.server(HERE))
        assert answers(address, second.file)
        assert not answers(address, first.file)


@pytest.mark.parametrize("server", [blocking_server, aio_server])
def test_a_caller_without_a_certificate_of_the_right_authority_is_refused(
    tmp_path: Path, shown: Shown, server: Callable[[Settings], Iterator[str]]
):
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    shown.show(ours.server(HERE))
    with server(shown.settings.model_copy(update={"tls_client_ca_file": ours.file})) as address:
        assert answers(address, ours.file, ours.client("ann"))
        assert not answers(address, ours.file)
        assert not answers(address, ours.file, other.client("ann"))


def test_the_gateway_speaks_https_shows_a_new_certificate_and_asks_for_the_callers(tmp_path: Path, shown: Shown):
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    shown.show(first.server(HERE))
    ann = first.client("ann")

    def status(ca: Authority, cert: Path | None = ann) -> int:
        context = ssl.create_default_context(cafile=str(ca.file))
        if cert:
            context.load_cert_chain(cert)
        with httpx.Client(verify=context, trust_env=False) as http:
            return http.get(f"https://{settings.gateway_listen}/v1/model").status_code

    with serve(FakeLoop()) as fake:
        update = {"inference_target": fake.target, "learner_target": fake.target, "tls_client_ca_file": first.file}
        settings = free_settings(shown.settings).model_copy(update=update)
        with Loop(settings, services=("gateway",)):
            assert status(first) == 200
            with pytest.raises(httpx.TransportError):
                status(first, cert=None)
            shown.show(second.server(HERE))
            assert status(second) == 200
            for trusted, cert in ((first, ann), (second, None), (second, second.client("ann"))):
                with pytest.raises(httpx.TransportError):
                    status(trusted, cert)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://{settings.gateway_listen}/v1/model", trust_env=False)


def test_the_client_says_unavailable_where_it_does_not_trust_the_server(tmp_path: Path, shown: Shown):
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    shown.show(first.server(HERE))
    with blocking_server(shown.settings) as address, Client(address, ca=second.file, timeout=5) as client, pytest.raises(Unavailable):
        client.model()


def test_files_that_cannot_be_used_are_one_sentence_at_the_start(tmp_path: Path, shown: Shown):
    with pytest.raises(Misconfigured, match=r"shown\.pem"):
        tls.grpc_server(shown.settings)
    os.close(os.open(tmp_path / "shown.pem", os.O_CREAT | os.O_WRONLY))
    with pytest.raises(Misconfigured, match=r"shown\.pem"):
        tls.https(shown.settings)
    with pytest.raises(Misconfigured, match="both"):
        tls.https(shown.settings.model_copy(update={"tls_key_file": None}))
    assert tls.https(Settings(data=tmp_path)) is None
