"""Limits: the buckets, whose bucket it is, and that inference and the gateway refuse with the time to wait."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import grpc
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveloop.errors import Misconfigured, Overloaded
from liveloop.limits import Buckets, Proxies, host_of
from liveloop.rpc import error_from
from liveloop.settings import Settings
from liveloop.v1.inference_pb2 import PredictRequest, PredictResponse
from liveloop.v1.inference_pb2_grpc import InferenceServiceServicer, InferenceServiceStub, add_InferenceServiceServicer_to_server
from services.commands.processes import Loop, free_settings
from services.inference.limiter import Limiter
from tests.unit.fake_services import FakeLoop, serve


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 256)), max_size=60), st.floats(1, 100))
def test_nobody_takes_more_than_the_burst_and_the_rate_allow_and_the_wait_is_enough(asked: list[tuple[float, int]], rate: float):
    clock, taken = Clock(), 0
    buckets = Buckets(rate, clock=clock)
    for passed, items in asked:
        clock.now += passed
        wait = buckets.take("ann", items)
        taken += 0 if wait else items
        assert taken <= max(256, rate * 10) + rate * clock.now + 1e-6
        if wait:
            clock.now += wait + 1e-6
            assert buckets.take("ann", items) == 0
            taken += items


def test_one_caller_who_asks_too_much_takes_nothing_from_another():
    buckets = Buckets(1, clock=Clock())
    assert buckets.take("ann", 256) == 0
    assert buckets.take("ann", 10) == pytest.approx(10)
    assert buckets.take("bob", 256) == 0


def test_a_million_names_take_no_more_memory_than_the_most_that_are_kept():
    buckets = Buckets(1, clock=Clock(), most=100)
    for number in range(10_000):
        buckets.take(str(number))
    assert len(buckets) == 100


def test_who_asks_is_read_from_the_right_as_far_as_the_proxies_are_ours():
    ours = Proxies("10.0.0.0/8, ::1")
    assert ours.client("192.0.2.1", ["203.0.113.9"]) == "192.0.2.1"  # not a proxy of ours: what it says counts for nothing
    assert ours.client("10.0.0.1", ["203.0.113.9", "192.0.2.7"]) == "192.0.2.7"
    assert ours.client("10.0.0.1", ["192.0.2.7", " 10.9.9.9 "]) == "192.0.2.7"
    assert ours.client("::ffff:10.0.0.1", ["2001:db8:1:2:3::4"]) == ours.client("10.0.0.1", ["2001:db8:1:2:ffff::"]) == "2001:db8:1:2::/64"
    assert ours.client("10.0.0.1") == ours.client("::1", ["10.1.1.1"]) == ""
    assert ours.client("10.0.0.1", ["192.0.2.7:4711", "10.9.9.9:80"]) == "192.0.2.7"
    assert ours.client("10.0.0.1", ["[2001:db8:1:2::3]:4711"]) == ours.client("10.0.0.1", ["[2001:db8:1:2::3]"]) == "2001:db8:1:2::/64"
    assert ours.client("10.0.0.1", ["[1::2:3:4:5:6]"]) == "1:0:0:2::/64"
    assert ours.client("10.0.0.1", ["unknown"]) == "unknown"
    with pytest.raises(Misconfigured, match="trusted_proxies"):
        Proxies("10.0.0.0/99")


def test_grpc_names_of_peers_are_understood():
    assert host_of("ipv4:127.0.0.1:5000") == "127.0.0.1"
    assert host_of("ipv6:%5B::1%5D:5000") == "::1"


class Answers(InferenceServiceServicer):
    async def Predict(self, _request: PredictRequest, _context: object) -> PredictResponse:
        return PredictResponse()


class Served:
    """A fake loop behind a grpc.aio server with a limiter."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def __enter__(self) -> InferenceServiceStub:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

        async def start() -> int:
            self._server = grpc.aio.server(interceptors=[self._limiter])
            add_InferenceServiceServicer_to_server(Answers(), self._server)
            port: int = self._server.add_insecure_port("127.0.0.1:0")
            await self._server.start()
            return port

        port = asyncio.run_coroutine_threadsafe(start(), self._loop).result(30)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        return InferenceServiceStub(self._channel)

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        asyncio.run_coroutine_threadsafe(self._server.stop(None), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


def predict(stub: InferenceServiceStub, items: int = 1, user: str = "", key: str = "") -> None:
    try:
        stub.Predict(
            PredictRequest(inputs=[{"text": "x"}] * items, user=user), timeout=30, metadata=[("authorization", key)] if key else []
        )
    except grpc.RpcError as call:
        raise error_from(call) from call


@pytest.mark.parametrize(
    ("first", "second", "free"),
    [
        ({"user": "ann"}, {"user": "ann"}, {"user": "bob"}),
        ({"key": "Bearer a", "user": "ann"}, {"key": "Bearer a", "user": "ann"}, {"key": "Bearer b", "user": "ann"}),
        ({"key": "Bearer a"}, {"key": "Bearer a"}, {"key": "Bearer b"}),
        ({"key": "Bearer a"}, {"key": "bearer   a"}, {"key": "Bearer b"}),  # another spelling is the same key
        ({"user": "ann"}, {}, None),
    ],
)
def test_inference_limits_by_user_key_and_address_and_says_when_to_come_back(first: dict, second: dict, free: dict | None):
    clock = Clock()
    kind = "user" if "user" in second else "key" if "key" in second else "address"
    settings = Settings(
        limit_per_user=10 if kind == "user" else 1e6,
        limit_per_key=10 if kind == "key" else 1e6,
        limit_per_address=10 if kind == "address" else 1e6,
        trusted_proxies="",
    )
    with Served(Limiter(settings, clock=clock)) as stub:
        predict(stub, 256, **first)
        with pytest.raises(Overloaded, match=kind) as refused:
            predict(stub, 20, **second)
        assert refused.value.retry_after == pytest.approx(2.0)
        if free is not None:
            predict(stub, 20, **free)
        clock.now += 2.0
        predict(stub, 20, **second)


def test_our_own_gateways_are_not_limited_by_address():
    with Served(Limiter(Settings(limit_per_address=1), clock=Clock())) as stub:
        for _ in range(3):
            predict(stub, 256)


def test_the_gateway_limits_an_address_and_other_addresses_go_on(tmp_path: Path):
    with serve(FakeLoop()) as fake:
        free = free_settings(Settings(data=tmp_path, limit_per_address=1))
        settings = free.model_copy(update={"inference_target": fake.target, "learner_target": fake.target})
        with Loop(settings, services=("gateway",)), httpx.Client(base_url=f"http://{settings.gateway_listen}", trust_env=False) as http:
            for _ in range(300):
                last = http.get("/v1/model", headers={"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "Origin": "http://localhost:3000"})
                if last.status_code != 200:
                    break
            assert (last.status_code, last.json()["code"]) == (429, "RESOURCE_EXHAUSTED")
            assert int(last.headers["retry-after"]) >= 1
            assert last.headers["access-control-allow-origin"] == "http://localhost:3000"  # the page can read how long to wait
            assert http.get("/v1/model", headers={"X-Forwarded-For": "203.0.113.9, 192.0.2.1"}).status_code == 200


def test_the_gateway_counts_the_items_of_a_call(tmp_path: Path):
    with serve(FakeLoop()) as fake:
        free = free_settings(Settings(data=tmp_path, limit_per_address=1))
        settings = free.model_copy(update={"inference_target": fake.target, "learner_target": fake.target})
        with Loop(settings, services=("gateway",)), httpx.Client(base_url=f"http://{settings.gateway_listen}", trust_env=False) as http:
            items = {"/v1/predict": {"inputs": [{"text": "x"}] * 250}, "/v1/feedback": [{"thumb": "up"}] * 250}
            for number, (path, body) in enumerate(items.items(), 1):
                asked = [http.post(path, json=body, headers={"X-Forwarded-For": f"192.0.2.{number}"}) for _ in range(2)]
                assert asked[0].status_code != 429
                assert (asked[1].status_code, asked[1].json()["code"]) == (429, "RESOURCE_EXHAUSTED")
                assert int(asked[1].headers["retry-after"]) > 100


def test_the_gateway_answers_to_its_own_names_and_to_the_origins_it_was_given(tmp_path: Path):
    with serve(FakeLoop()) as fake:
        free = free_settings(Settings(data=tmp_path, allowed_hosts="loop.example, other.example", allowed_origins="https://chat.example"))
        settings = free.model_copy(update={"inference_target": fake.target, "learner_target": fake.target})
        with Loop(settings, services=("gateway",)), httpx.Client(base_url=f"http://{settings.gateway_listen}", trust_env=False) as http:

            def status(host: str) -> int:
                return http.get("/v1/model", headers={"Host": host}).status_code

            for good in ("loop.example", "Other.Example:8443", "localhost:1", "127.0.0.1", "[::1]", "[::1]:8080"):
                assert status(good) == 200
            for foreign in ("rebound.example", "loop.example.evil.example", "", "::1:8080:", "localhost@evil.example"):
                assert status(foreign) == 421
            for origin, readable in (("https://chat.example", True), ("http://localhost:3000", False), ("https://evil.example", False)):
                allowed = http.get("/v1/model", headers={"Origin": origin}).headers.get("access-control-allow-origin")
                assert allowed == (origin if readable else None)
