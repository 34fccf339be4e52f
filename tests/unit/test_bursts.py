"""A few accounts that suddenly give much of the feedback: who stands out, who does not, and what becomes of what they said."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.burst_simulation import at_random, in_sessions, set_aside
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.bursts import RECENT, USUAL, Bursts, bursting
from services.learner.quarantine import Quarantine
from tests.unit.test_influence import CROWD
from tests.unit.test_learner_loop import Bench
from tests.unit.test_learning import RECIPE

ATTACKERS = [b"attacker %d" % number for number in range(5)]


def crowd(count: int, seed: int = 0) -> list[bytes]:
    return list(islice(at_random(random.Random(seed)), count))


def mixed(honest: list[bytes], count: int) -> list[bytes]:
    """The last of these with attackers in `count` of their places."""
    places = set(random.Random(1).sample(range(RECENT), count))
    return [ATTACKERS[place % 5] if place in places else judge for place, judge in enumerate(honest[-RECENT:])]


@pytest.mark.parametrize("count", [80, 120, 190])
def test_few_new_accounts_with_much_of_the_feedback_stand_out(count: int):
    honest = crowd(USUAL + RECENT)
    assert bursting(mixed(honest, count), honest[:USUAL]) == frozenset(ATTACKERS)


def test_nobody_stands_out_among_those_who_say_as_much_as_ever():
    honest = crowd(USUAL + RECENT)
    assert bursting(honest[USUAL:], honest[:USUAL]) == frozenset()
    usual = mixed(honest, 100) * 5
    assert bursting(mixed(honest, 100), usual) == frozenset()


def test_a_small_team_and_a_young_service_have_no_usual():
    team = [b"judge %d" % (number % 12) for number in range(USUAL)]
    assert bursting([b"new"] * RECENT, team) == frozenset()
    assert bursting([b"new"] * RECENT, crowd(300)) == frozenset()
    assert bursting([b"new"] * (RECENT - 1), crowd(USUAL)) == frozenset()


def test_people_who_come_for_a_while_and_go_are_rarely_set_aside():
    wrongly = [set_aside(in_sessions(random.Random(seed), 5, 10.0), 0.0, random.Random(seed))[0] for seed in range(3)]
    assert sum(wrongly) < 0.04 * 3 * 4_000


def test_a_burst_is_set_aside_before_it_is_learnt_and_an_operator_can_release_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.learner.bursts.RECENT", 20)
    monkeypatch.setattr("services.learner.bursts._ENOUGH_FEEDBACK", 40)
    monkeypatch.setattr("services.learner.bursts._LEAST", 0.2)
    bench = Bench(tmp_path)
    bench.parts.bursts = Bursts(bench.parts.journal.db)
    for judge in CROWD[:40]:
        bench.thumb(THUMB_UP, judge=judge)
    bench.turn_until(lambda: len(bench.states()) == bench.sent and not bench.parts.batches.waiting())
    for judge in [*CROWD[:8], *[b"loud"] * 12]:
        bench.thumb(THUMB_DOWN, judge=judge)
    bench.turn_until(lambda: len(bench.states()) == bench.sent and not bench.parts.batches.waiting())
    learnt, set_aside = {State.FEEDBACK_STATE_TRAINED}, State.FEEDBACK_STATE_QUARANTINED
    assert set(bench.states()[:48]) == learnt and set(bench.states()[48:]) == {set_aside}
    ((note,),) = bench.parts.journal.db.execute("SELECT body FROM rows WHERE kind = 'note'").fetchall()
    assert json.loads(note)["decision"] == "burst" and json.loads(note)["feedback"] == list(range(49, 61))
    Quarantine(bench.parts.journal, RECIPE).release([], who="ann", why="a class of students")
    bench.turn_until(lambda: not bench.parts.batches.waiting())
    assert set(bench.states()) == learnt
    bench.close()
