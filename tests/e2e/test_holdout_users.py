"""Users held out by a loop of real processes with a tiny model, over Redis: version 1 is theirs while the others' learns and explores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from liveloop.settings import Settings
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.commands.initial import publish
from services.commands.processes import free_settings
from services.learner.task_data import TaskData
from tests.e2e.running import Running, wait_for
from tests.servers import ValkeyServer
from tests.tiny import tiny_bundle
from tests.unit.test_warm_start import reviews

TEXT = "this film is fine"
USERS = [f"user-{number}" for number in range(24)]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Running]:
    valkey = ValkeyServer(tmp_path / "valkey")
    valkey.start()
    bundle, bits = tiny_bundle()
    chosen = {"weights_url": valkey.url, "holdout_share": 0.4, "policy": "epsilon:0.5", "ask_share": 1.0, "learner_threads": 1}
    settings = free_settings(Settings(data=tmp_path / "data")).model_copy(update=chosen)
    publish(settings, bundle, bits, TaskData(reviews(64), reviews(32, seed=1), reviews(32, seed=2)), Console(quiet=True))
    running = Running(settings, services=("learner", "inference"))
    try:
        running.start()
        yield running
    finally:
        running.stop()
        valkey.kill()


def test_held_out_users_stay_with_version_1_over_restarts_and_what_they_say_is_never_learnt(loop: Running) -> None:
    held_out = {user for user in USERS if not explored(loop, user)}
    others = [user for user in USERS if user not in held_out]
    assert held_out and others

    said = loop.predict(TEXT, user=min(held_out))
    kept = loop.accepted(loop.client.feedback(said, "down"))
    status = loop.wait_state(said, kept, State.FEEDBACK_STATE_HELD_OUT)
    assert "held out" in status.reason
    assert not said.feedback_wanted
    assert loop.client.model().version == 1

    teaches = loop.predict(TEXT, user=others[0])
    ack = loop.accepted(loop.client.feedback(teaches, "up"))
    loop.wait_state(teaches, ack, State.FEEDBACK_STATE_SERVED)
    assert teaches.feedback_wanted
    assert loop.wait_settled() > 1
    for _ in range(2):
        assert {version_for(loop, user) for user in held_out} == {1}
        assert 1 not in {version_for(loop, user) for user in others}
        assert {user for user in USERS if not explored(loop, user)} == held_out
        loop.processes.restart("inference")
        wait_for(loop.answers, "the restarted process answers")
    assert loop.status(said, kept) == status


def explored(loop: Running, user: str) -> bool:
    """Whether labels are drawn for this user; what is not stored is never drawn."""
    (propensity,) = {one.propensity < 1.0 for one in loop.client.predict([TEXT] * 4, user=user)}
    assert loop.client.predict(TEXT, user=user, store=False).propensity == 1.0
    return propensity


def version_for(loop: Running, user: str) -> int:
    (version,) = {one.version for one in loop.client.predict([TEXT] * 4, user=user)}
    return version
