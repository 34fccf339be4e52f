"""Kafka away for long: a pod takes feedback in bounded memory, and all of it is delivered in order once the broker is there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from liveloop.events import open_log
from liveloop.settings import Settings
from tests.kafka_servers import KafkaServer

POD = """
import re, sys
from pathlib import Path
from liveloop.events import open_intake
from liveloop.settings import Settings
from tests.unit.event_samples import feedback

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024  # MB; getrusage tells the parent's too

settings, count = Settings.model_validate_json(sys.argv[1]), int(sys.argv[2])
intake = open_intake(settings)
for first in range(0, count, 1000):
    for result in [intake.accept(feedback(number, f"{number:06}")) for number in range(first, first + 1000)]:
        result.result(60)
    if first == 4000:
        at_first = peak()
print("SAID", peak() - at_first, peak(), flush=True)
sys.stdin.readline()
left = intake.close(300)
print("SAID", peak() - at_first, left, flush=True)
"""
GROWN_MB = 64
"""More than the relay's pages in flight take, and far less than the events of the long backlog would."""


@pytest.mark.parametrize("count", [20_000, pytest.param(200_000, marks=pytest.mark.nightly)])
def test_a_backlog_takes_bounded_memory_and_is_delivered_in_order(tmp_path: Path, count: int) -> None:
    broker = KafkaServer(tmp_path / "kafka")
    url = f"kafka://{broker.bootstrap}/test-{uuid.uuid4().hex}"
    settings = Settings(data=tmp_path / "data", events_url=url, topic_partitions=3)
    command = [sys.executable, "-c", POD, settings.model_dump_json(), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pod:
        try:
            grown_away, peak = said(pod)
            broker.start()
            assert pod.stdin
            pod.stdin.write("\n")
            pod.stdin.flush()
            grown_drained, left = said(pod)
            found = delivered(settings, count)
        finally:
            pod.kill()
            broker.kill()
    print(json.dumps({"events": count, "peak_mb": peak, "grown_mb_away": grown_away, "grown_mb_drained": grown_drained}))
    assert left == 0
    assert max(grown_away, grown_drained) < GROWN_MB
    assert sorted(name for own in found.values() for name in own) == [f"{number:06}" for number in range(count)]
    assert all(own == sorted(own) for own in found.values())


def said(pod: subprocess.Popen[str]) -> list[int]:
    """The numbers of the next line that is no log line."""
    assert pod.stdout
    line = next(line for line in pod.stdout if line.startswith("SAID"))
    return [int(word) for word in line.split()[1:]]


def delivered(settings: Settings, count: int) -> dict[int, list[str]]:
    """Ids of feedback by partition, in the order in which each came first."""
    found: dict[int, dict[str, None]] = {}
    positions: dict[int, int] = {}
    deadline = time.monotonic() + 300
    with open_log(settings) as log:
        while sum(map(len, found.values())) < count:
            assert time.monotonic() < deadline
            for record in log.read(positions, limit=500, timeout=0.5).records:
                positions[record.partition] = record.position + 1
                names = (event.feedback.feedback.feedback_id for event in record.events)
                found.setdefault(record.partition, {}).update(dict.fromkeys(names))
    return {partition: list(own) for partition, own in found.items()}
