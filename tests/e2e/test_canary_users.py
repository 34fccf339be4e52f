"""A canary on real processes and a real Redis-protocol server: users keep their channel; what they say moves a version or takes it back."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from liveloop.v1.inference_pb2 import Prediction
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.learner_pb2 import VersionState
from tests.e2e.conftest import NewLoop
from tests.e2e.running import Running, wait_for
from tests.servers import ValkeyServer

TEXT = "a warm, funny and wonderful film"
USERS = [f"user-{number}" for number in range(40)]
ASKED = 2 * 256


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path / "valkey")
    server.start()
    yield server
    server.kill()


def test_users_promote_a_version_that_serves_them_well_and_take_back_one_that_does_not(new_loop: NewLoop, valkey: ValkeyServer) -> None:
    loop = new_loop(weights=valkey.url, canary_share=0.3)
    good = trained(loop)
    channels = channels_of(loop, current=good, blessed=1)
    shielded = next(user for user, version in channels.items() if version == 1)
    with asking(loop, shielded) as seen:
        judge(loop, {good: 0.0, 1: 0.2})
        wait_for(lambda: loop.client.model().blessed_version == good, f"the users of version {good} promote it")
        wait_for(lambda: loop.client.predict(TEXT, user=shielded, store=False).version == good, "the other users get it too")
        assert state_of(loop, good) == VersionState.VERSION_STATE_BLESSED

        bad = trained(loop)
        assert channels_of(loop, current=bad, blessed=good).keys() == channels.keys()
        assert state_of(loop, bad) == VersionState.VERSION_STATE_CANARY
        judge(loop, {bad: 0.9, good: 0.1})
        back = wait_for(lambda: reset_to(loop, good), f"the users of version {bad} have it taken back")
        wait_for(lambda: {version_for(loop, user) for user in USERS} == {back}, f"everybody gets version {back}")
        assert state_of(loop, bad) == VersionState.VERSION_STATE_ROLLED_BACK
    assert set(seen) == {1, good, back}, "a user of the blessed channel saw another version"
    assert seen == sorted(seen)
    assert "of the judges say wrong" in why_of_the_reset(loop)


def trained(loop: Running) -> int:
    """The version after one more thumb, with training paused, so that the judgements that follow teach nothing."""
    loop.client.resume(who="test")
    prediction = loop.predict(TEXT)
    ack = loop.accepted(loop.client.feedback(prediction, "up"))
    loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
    version = loop.wait_settled()
    loop.client.pause(who="test")
    return version


def channels_of(loop: Running, *, current: int, blessed: int) -> dict[str, int]:
    """The version that each user gets: the same one whenever he asks, and each channel has users."""
    versions = {user: version_for(loop, user) for user in USERS}
    assert {user: version_for(loop, user) for user in USERS} == versions
    assert set(versions.values()) == {current, blessed}
    return versions


def version_for(loop: Running, user: str) -> int:
    (version,) = {prediction.version for prediction in loop.client.predict([TEXT] * 2, user=user, store=False)}
    return version


def judge(loop: Running, downs: dict[int, float]) -> None:
    """Many strangers ask and say what they think: of each version's answers this share is called wrong."""
    answers: dict[int, list[Prediction]] = {version: [] for version in downs}
    for _ in range(0, ASKED, 256):
        for prediction in loop.client.predict([TEXT] * 256):
            answers[prediction.version].append(prediction)
    assert min(map(len, answers.values())) > 100
    with ThreadPoolExecutor(8) as pool:
        for version, found in answers.items():
            wrong = [index < downs[version] * len(found) for index in range(len(found))]
            thumbs = pool.map(lambda prediction, down: loop.client.feedback(prediction, "down" if down else "up"), found, wrong)
            for ack in thumbs:
                loop.accepted(ack)


@contextmanager
def asking(loop: Running, user: str) -> Iterator[list[int]]:
    """The versions that answer this user, who asks all the time."""
    seen: list[int] = []
    done = threading.Event()

    def ask() -> None:
        with loop.new_client() as client:
            while not done.wait(0.05):
                seen.append(client.predict(TEXT, user=user, store=False).version)

    with ThreadPoolExecutor(1) as pool:
        asker = pool.submit(ask)
        try:
            yield seen
        finally:
            done.set()
        asker.result()


def state_of(loop: Running, version: int) -> int:
    return next(one.state for one in loop.client.versions(limit=100) if one.version == version)


def reset_to(loop: Running, version: int) -> int:
    """The version that has the bytes of `version` again; 0 before there is one."""
    newest = loop.client.versions(limit=1)[0]
    return newest.version if newest.kind == "reset" and newest.version > version else 0


def why_of_the_reset(loop: Running) -> str:
    with sqlite3.connect(f"file:{loop.settings.data / 'learner.db'}?mode=ro", uri=True) as db:
        return str(db.execute("SELECT json_extract(body, '$.why') FROM rows WHERE kind = 'reset'").fetchone()[0])
