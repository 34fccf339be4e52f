"""The pace of learning: both detectors on simulated streams, and the factor in the journal of a learner with a tiny model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pace_simulation import alarms, constant, dropping, learning, rates
from liveloop.tasks.classification import Classification
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP
from services.learner.pacemaker import Pacemaker
from services.learner.pacing import FLOOR, HALF, Pacing, PageHinkley, Scores, gain
from services.learner.redo import redo
from services.learner.trainer import Trainer
from services.learner.versions import Score
from tests.unit.test_learner_loop import Bench
from tests.unit.test_learning import RECIPE

EVERY = 200
"""Feedbacks between two evaluations."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.close()


def evaluate(pacing: Pacing, accuracies: list[float], *, start: int = 0) -> list[float]:
    """The factor after each evaluation."""
    found = []
    for place, accuracy in enumerate(accuracies):
        pacing.evaluated(Scores(start + place * EVERY, {"task": (accuracy, 500)}))
        found.append(pacing.rate)
    return found


def test_a_stream_that_does_not_change_raises_no_alarm():
    for accuracy in (0.5, 0.75, 0.9):
        assert alarms(constant(accuracy), 10_000, random.Random(7)) == []


def test_a_model_that_learns_raises_no_alarm():
    assert alarms(learning(0.66, 0.84, 800.0), 10_000, random.Random(7)) == []


@pytest.mark.parametrize(("before", "by", "within"), [(0.9, 0.2, 400), (0.8, 0.2, 400), (0.8, 0.1, 1500)])
def test_a_drop_is_seen_within_some_hundred_judgements(before: float, by: float, within: int):
    for seed in range(3):
        first = next(at for at in alarms(dropping(constant(before), 3_000, by), 6_000, random.Random(seed)) if at >= 3_000)
        assert first - 3_000 < within


@given(st.lists(st.floats(0.0, 1.0), max_size=400))
@settings(max_examples=25, deadline=None)
def test_answers_that_get_better_are_no_alarm_whatever_they_were(values: list[float]):
    detector = PageHinkley()
    assert not any(detector.add(value) for value in sorted(values, reverse=True))


def test_a_climb_is_never_slowed():
    assert set(evaluate(Pacing(), [0.70 + 0.001 * place for place in range(100)])) == {1.0}


def test_a_plateau_halves_the_factor_down_to_its_floor_and_not_before_both_halves_are_full():
    found = evaluate(Pacing(), [0.8] * 400)
    first = found.index(0.5)
    assert first * EVERY >= 2 * HALF and found[-1] == FLOOR
    assert sorted(set(found), reverse=True) == [1.0, 0.5, 0.25, 0.125]


def test_nothing_is_lowered_in_the_first_four_thousand_feedbacks_of_noisy_streams():
    for curve in (learning(0.68, 0.83, 800.0), constant(0.8)):
        for seed in range(2):
            assert rates(curve, 2 * HALF, 1_000, random.Random(seed)) == [1.0] * 4


def test_a_slow_climb_is_told_from_noise():
    assert rates(lambda at: 0.68 + at / 80_000, 8_000, 8_000, random.Random(3)) == [1.0]


def test_falling_validation_brings_the_whole_factor_back():
    pacing = Pacing(0.25)
    assert evaluate(pacing, [0.85] * 15 + [0.70] * 15)[-1] == 1.0


def test_falling_validation_is_no_plateau():
    assert set(evaluate(Pacing(), [0.85 - 0.005 * place for place in range(60)])) == {1.0}


def test_drift_brings_the_whole_factor_back_and_says_why():
    pacing, rng = Pacing(0.125), random.Random(1)
    changes = [pacing.judged(float(rng.random() < (0.9 if at < 2_000 else 0.6))) for at in range(3_000)]
    found = [(at, one) for at, one in enumerate(changes) if one]
    assert len(found) == 1 and found[0][0] > 2_000
    assert found[0][1].rate == pacing.rate == 1.0 and "wrong more often" in found[0][1].why


def test_gain_counts_the_splits_alike_and_those_with_enough_rows_only():
    def scores(task: float, feedback: float, rows: int) -> list[Scores]:
        return [Scores(0, {"task": (task, 100), "feedback": (feedback, rows)})] * 3

    found = gain(scores(0.5, 0.5, 100), scores(0.6, 0.8, 100))
    assert found is not None and found[0] == pytest.approx(0.2)
    assert found[1] == pytest.approx(((0.25 + 0.25 + 0.24 + 0.16) / 100) ** 0.5 / 2)
    few = gain(scores(0.5, 0.5, 5), scores(0.6, 0.9, 5))
    assert few is not None and few[0] == pytest.approx(0.1)
    assert gain([], scores(0.5, 0.5, 100)) is None


# In the journal


def learn(bench: Bench, signal: int = THUMB_UP) -> None:
    bench.thumb(signal)
    bench.turn_until(lambda: len(bench.states()) == bench.sent and not bench.parts.batches.waiting())


def last_step(bench: Bench):
    return [row for row in bench.parts.journal.since(0) if row.kind == "train"][-1]


def notes(bench: Bench) -> list[tuple[float, str]]:
    query = "SELECT json_extract(body, '$.rate'), json_extract(body, '$.why') FROM rows WHERE json_extract(body, '$.decision') = 'pace'"
    return bench.parts.journal.db.execute(query).fetchall()


def plateau(bench: Bench) -> None:
    """What evaluations of a long stream would have left: accuracies that stay the same, of versions each a hundred feedbacks later."""
    pacing = bench.loop._pacemaker._pacing
    pacing._scores = [Scores(at - 3 * HALF, {"task": (0.8, 500)}) for at in range(0, 3 * HALF, 100)]
    pacing._stalled = True


def test_a_step_is_journalled_and_redone_with_the_factor_it_was_made_with(bench: Bench):
    learn(bench)
    plateau(bench)
    bench.parts.journal.evaluated(bench.head.current, {"task": Score(0.8, 500)}, passed=True)
    learn(bench, THUMB_DOWN)
    assert last_step(bench).body["rate"] == 0.5
    assert len(notes(bench)) == 1 and notes(bench)[0][0] == 0.5 and "stopped improving" in notes(bench)[0][1]
    bits = bench.parts.trainer.bits.copy()
    journal, publisher = bench.parts.journal, bench.publisher
    other = Trainer(Classification(bench.bundle), bench.bundle.layout, torch.device("cpu"))
    redo(journal, other, bench.parts.batches, lambda version: publisher.load(version, journal.manifest(version)))
    assert np.array_equal(other.bits, bits)


def test_the_factor_outlives_a_crash(bench: Bench):
    bench.parts.journal.note("pace", RECIPE, who="learner", why="validation has stopped improving", rate=0.25)
    bench.crash()
    learn(bench)
    assert last_step(bench).body["rate"] == 0.25 and len(notes(bench)) == 1


def test_a_learning_rate_that_is_set_anew_begins_at_its_full_height(bench: Bench):
    bench.parts.journal.note("pace", RECIPE, who="learner", why="validation has stopped improving", rate=0.25)
    assert Pacemaker(bench.parts.journal, RECIPE).rate == 0.25
    assert Pacemaker(bench.parts.journal, replace(RECIPE, learning_rate=2 * RECIPE.learning_rate)).rate == 1.0


def test_judged_answers_reach_the_detector_each_once_and_in_order(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    seen: list[float] = []
    monkeypatch.setattr(bench.loop._pacemaker._pacing, "judged", seen.append)
    for signal in (THUMB_UP, THUMB_DOWN, THUMB_DOWN):
        learn(bench, signal)
    assert seen == [1.0, 0.0, 0.0]
