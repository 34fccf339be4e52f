"""A bad version, properly signed, on real processes and a real Redis-protocol server: how long it is served, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from liveloop.errors import LiveloopError
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.learner_pb2 import VersionState
from tests.e2e.bad_learner import FLIP_AT
from tests.e2e.conftest import NewLoop
from tests.e2e.running import Running, wait_for
from tests.servers import ValkeyServer

FLIP = 5
PAUSE = 0.05  # seconds between two calls, so that the pod leaves the learner some of the processor
MOST_SECONDS = 15.0
TEXTS = ["what a lovely day", "this is the worst phone ever", "so happy for you all", "i hate mondays", "great game tonight"]


@pytest.fixture
def loop(new_loop: NewLoop, tmp_path: Path) -> Iterator[Running]:
    """A pod, fed through Redis by a learner whose step number FLIP spoils the weights."""
    valkey = ValkeyServer(tmp_path / "valkey")
    valkey.start()
    running = new_loop(weights=valkey.url, start=False)
    running.processes.services = ("inference",)
    running.processes.log("learner").parent.mkdir(parents=True)
    command = [sys.executable, "-P", "-m", "tests.e2e.bad_learner"]
    root = str(Path(__file__).parents[2])
    environment = {
        **running.processes._environment,
        FLIP_AT: str(FLIP),
        "PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", ""))),
    }
    with running.processes.log("learner").open("wb") as log:
        learner = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        running.start()
        yield running
    finally:
        learner.send_signal(signal.SIGTERM)
        running.stop()
        try:
            learner.wait(20)
        finally:
            learner.kill()
            valkey.kill()


def test_a_bad_version_is_served_for_less_than_fifteen_seconds(loop: Running):
    with users(loop) as seen:
        (to, back) = wait_for(lambda: reset(loop), "the guard goes back", seconds=120)
        wait_for(lambda: seen and seen[-1][1] >= back, f"version {back} is served")
        wait_for(lambda: trained_after(loop, back), "learning goes on")
    bad = range(version_of_step(loop, FLIP), back)
    times = [when for when, version in seen if version in bad]
    assert times, "the bad version was never served: nothing was shown"
    assert times[-1] - times[0] < MOST_SECONDS, f"served for {times[-1] - times[0]:.1f} s, in {len(times)} answers"
    versions = {version.version: version for version in loop.client.versions(200)}
    assert all(versions[one].state == VersionState.VERSION_STATE_ROLLED_BACK for one in bad)
    assert versions[back].kind == "reset" and to < bad[0]
    learnt = states_of_feedback(loop, bad)
    assert learnt and set(learnt) == {State.FEEDBACK_STATE_QUARANTINED}


@contextmanager
def users(loop: Running) -> Iterator[list[tuple[float, int]]]:
    """People who ask and judge without a pause; when which version answered."""
    seen: list[tuple[float, int]] = []
    ended = threading.Event()

    def ask() -> None:
        client = loop.new_client()
        while not ended.is_set():
            try:
                answers = client.predict(TEXTS)
                seen.extend((time.monotonic(), answer.version) for answer in answers)
                client.feedback(answers[0], "up")
                ended.wait(PAUSE)
            except LiveloopError:  # a machine that is very busy
                continue
        client.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def journal(loop: Running, query: str, *parameters: object) -> list[tuple]:  # type: ignore[type-arg]
    connection = sqlite3.connect(loop.settings.data / "learner.db", timeout=10)
    try:
        return connection.execute(query, parameters).fetchall()
    finally:
        connection.close()


def reset(loop: Running) -> tuple[int, int] | None:
    """The version that the guard went back to, and the one that has its bytes; None before."""
    found = journal(loop, "SELECT body, version FROM rows WHERE kind = 'reset'")
    return (json.loads(found[0][0])["to"], found[0][1]) if found else None


def version_of_step(loop: Running, step: int) -> int:
    return int(journal(loop, "SELECT version FROM rows WHERE kind = 'train' ORDER BY row LIMIT 1 OFFSET ?", step - 1)[0][0])


def trained_after(loop: Running, version: int) -> bool:
    return bool(journal(loop, "SELECT 1 FROM rows WHERE kind = 'train' AND version > ?", version))


def states_of_feedback(loop: Running, versions: range) -> list[int]:
    """Of what the steps of these versions learnt from."""
    bounds = (versions[0], versions[-1])
    return [state for (state,) in journal(loop, "SELECT state FROM feedback WHERE version BETWEEN ? AND ?", *bounds)]
