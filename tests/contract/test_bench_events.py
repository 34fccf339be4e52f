"""`liveloop bench events` measures the relay and the join on a real broker, and says what it lacks without one."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from liveloop.errors import Misconfigured
from liveloop.settings import load_settings
from services.commands.bench.events import Extent, bench_events


def test_bench_events_ends_in_one_line_that_names_every_side(kafka: str, capsys: pytest.CaptureFixture[str]):
    bench_events(load_settings(), Extent(events=1000, rounds=1), kafka=kafka, as_json=True, console=Console(stderr=True))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    sides = ("relay", "join", "kafka_python_produce", "kafka_python_consume")
    assert set(found) == {f"{side}_per_second" for side in sides}
    assert all(found.values())


def test_bench_events_without_a_broker_asks_for_one():
    with pytest.raises(Misconfigured, match="--kafka HOST:PORT"):
        bench_events(load_settings(), Extent(), kafka=None, as_json=True, console=Console(stderr=True))
