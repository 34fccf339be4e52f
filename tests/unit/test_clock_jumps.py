"""A clock that jumps by an hour, in a pod or in the learner: nothing expires wrongly, and one learner leads."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from liveloop.errors import TokenExpired
from liveloop.events import Page, Record
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.joiner import Joiner
from services.learner.lease import LEASE_SECONDS, LeaseLost
from tests.unit.test_joiner import START, feedback, prediction, prediction_id
from tests.unit.test_journal import LABELS, Clock, new_journal
from tests.unit.test_tokens import Clock as TokenClock
from tests.unit.test_tokens import tokens

HOUR = 3600.0
DAY = 24 * HOUR
JUMPS = pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])


@JUMPS
def test_the_learner_that_leads_goes_on_when_its_clock_jumps(tmp_path: Path, jump: float):
    clock = Clock()
    leads, waits = new_journal(tmp_path, "one", clock), new_journal(tmp_path, "two", clock)
    assert leads.acquire(0)
    clock.now += jump
    leads.renew()
    assert not waits.acquire(0)
    clock.now += LEASE_SECONDS / 2
    leads.renew()
    clock.now += LEASE_SECONDS / 2
    assert not waits.acquire(0), "it did not renew by the new clock"


def test_a_clock_that_went_back_does_not_keep_the_lease_with_the_dead(tmp_path: Path):
    clock = Clock()
    dead, waits = new_journal(tmp_path, "one", clock), new_journal(tmp_path, "two", clock)
    assert dead.acquire(0)
    clock.now -= HOUR
    assert waits.acquire(0)
    with pytest.raises(LeaseLost):
        dead.renew()


@JUMPS
@pytest.mark.parametrize("jumps_before", ["prediction", "feedback"])
def test_feedback_joins_when_the_clock_of_its_pod_jumps(tmp_path: Path, jump: float, jumps_before: str):
    clock = Clock()
    journal = new_journal(tmp_path, clock=clock)
    assert journal.acquire(0)
    joiner = Joiner(journal.db, labels=LABELS, window=DAY)
    made = jump if jumps_before == "prediction" else 0.0
    judged = made + 60.0 if jumps_before == "prediction" else jump + 60.0
    one, other = prediction_id(0, seconds=made), prediction_id(1, seconds=jump + 120.0)
    journal.ingest(Page([Record(0, 1, [prediction(one, seconds=made)])], frozenset()), joiner)
    journal.ingest(Page([Record(0, 2, [prediction(other, seconds=jump + 120.0)])], frozenset({0})), joiner)
    journal.expire(joiner, [0], 30 * DAY)
    journal.ingest(Page([Record(0, 3, [feedback(one, "f", "up", judged)])], frozenset({0})), joiner)
    journal.expire(joiner, [0], 30 * DAY)
    assert state(journal.db) == State.FEEDBACK_STATE_JOINED


@JUMPS
def test_feedback_within_all_but_the_last_hour_of_its_window_joins_when_the_learner_s_clock_jumps(tmp_path: Path, jump: float):
    clock = Clock()
    clock.now = START
    journal = new_journal(tmp_path, clock=clock)
    assert journal.acquire(0)
    joiner = Joiner(journal.db, labels=LABELS, window=DAY)
    one, judged = prediction_id(0), DAY - HOUR - 60.0
    journal.ingest(Page([Record(0, 1, [prediction(one)])], frozenset({0})), joiner)
    clock.now += judged + jump
    journal.ingest(Page([], frozenset({0})), joiner)
    journal.expire(joiner, [0], 30 * DAY)
    journal.ingest(Page([Record(0, 2, [feedback(one, "f", "up", judged)])], frozenset({0})), joiner)
    journal.expire(joiner, [0], 30 * DAY)
    assert state(journal.db) == State.FEEDBACK_STATE_JOINED


@JUMPS
def test_a_token_lives_by_the_clock_of_the_pod_that_looks_at_it(jump: float):
    clock = TokenClock()
    maker = tokens(clock=clock)  # its window is a minute
    token = maker.sign("p", asker=b"a" * 16, version=1, propensity=0.5)
    clock.now += jump
    if jump > 0:
        with pytest.raises(TokenExpired):
            maker.verify(token, "p")
    else:
        assert maker.verify(token, "p").prediction_id == "p"
    clock.now -= jump
    assert maker.verify(token, "p").prediction_id == "p"


def state(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT state FROM feedback").fetchone()[0])
