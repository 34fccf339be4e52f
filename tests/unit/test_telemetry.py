"""Metrics: made once whoever asks first, there from the start where they are announced, served on IPv4 and IPv6."""

from __future__ import annotations

import json
import threading
import urllib.request

import pytest
from prometheus_client import REGISTRY, Counter

from liveloop import telemetry


def test_threads_that_ask_for_a_metric_at_once_get_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(telemetry._COUNTERS, "of_this_test_total", ("Asked for by many.", ()))
    making, found = threading.Event(), []

    def slow(*given: object) -> Counter:
        making.wait(0.1)  # long enough for the others to ask meanwhile
        return Counter(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(telemetry, "Counter", slow)
    threads = [threading.Thread(target=lambda: found.append(telemetry.counter("of_this_test_total"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_an_announced_metric_is_there_before_its_first_event() -> None:
    telemetry.announce("versions_published_total", "learner_steps_total", "patch_bytes", "http_requests_total")
    for kind in ("train", "reset"):
        assert REGISTRY.get_sample_value("liveloop_versions_published_total", {"kind": kind}) is not None
    assert REGISTRY.get_sample_value("liveloop_learner_steps_total") is not None
    assert REGISTRY.get_sample_value("liveloop_patch_bytes_count") is not None


def test_every_closed_table_has_one_set_of_values_for_each_label() -> None:
    for name, values in telemetry._CLOSED.items():
        labels = (telemetry._COUNTERS | telemetry._HISTOGRAMS)[name][1]
        assert len(values) == len(labels), name


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_operations_listen_on_either_family(host: str) -> None:
    server = telemetry.OperationsServer(f"{host}:0", lambda: True)
    port = server._server.server_address[1]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{port}/readyz", timeout=30) as answer:
            assert json.load(answer) == {"ready": True}
    finally:
        server.close()
