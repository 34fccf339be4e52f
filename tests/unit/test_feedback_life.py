"""Silence, labelled rows, second thoughts and experts: what trains, what never does, and what is counted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveloop.tasks import FeedbackExample, LabelledExample
from liveloop.v1.events_pb2 import SOURCE_EXPERT, Event, ExampleEvent, Input
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner import joiner as module
from services.learner import retention
from services.learner.experts import effective, weighted
from services.learner.joiner import Joiner, is_held_out
from services.learner.judgements import default_reward_id
from services.learner.micro_batch import MicroBatch, MicroBatches
from services.learner.view import JournalView
from tests.unit.test_feedback_document import World, new, there
from tests.unit.test_joiner import START, WINDOW, at, feedback, histories, new_joiner, prediction, prediction_id, states
from tests.unit.test_learning import RECIPE

JOINED, HELD_OUT, TRAINED = State.FEEDBACK_STATE_JOINED, State.FEEDBACK_STATE_HELD_OUT, State.FEEDBACK_STATE_TRAINED
LATER = START + WINDOW + 1


def rewarding(joiner: Joiner | None = None) -> Joiner:
    """A joiner that takes silence for a rating of 0.75; on the tables of `joiner`, as after a restart."""
    return Joiner((joiner or new_joiner())._db, labels=("negative", "positive"), window=WINDOW, default_reward=0.75)


def read(joiner: Joiner, *events: Event) -> None:
    for event in events:
        joiner.take(event)
    joiner.resolve()


def row(name: str, label: str = "positive", source: int = 0) -> Event:
    return Event(
        example=ExampleEvent(
            example_id=name, input=Input(text=f"text {name}"), label=label, judge=b"a", accepted_at=at(1.0), source=source or None
        )
    )


def names(*, held_out: bool) -> list[str]:
    return [name for name in map(str, range(200)) if is_held_out(f"example:{name}") is held_out]


# Silence


def test_silence_is_taken_for_the_default_reward_once_over_restarts():
    of, joiner = prediction_id(0), rewarding()
    read(joiner, prediction(of))
    joiner.expire(LATER - 2)
    assert states(joiner) == {}
    for _ in range(3):
        joiner = rewarding(joiner)
        joiner.expire(LATER)
        read(joiner, prediction(of))
    assert states(joiner) == {(of, default_reward_id(of)): JOINED}
    assert joiner._db.execute("SELECT signal, rating, source, judge FROM feedback").fetchall() == [("rating", 0.75, 4, b"")]


def test_a_default_reward_that_was_trained_is_never_given_again():
    of, joiner = prediction_id(0), rewarding()
    read(joiner, prediction(of))
    joiner.expire(LATER)
    joiner._db.execute("UPDATE feedback SET state = ?", (TRAINED,))
    joiner = rewarding(joiner)
    joiner.expire(LATER + 1000)
    assert list(states(joiner).values()) == [TRAINED]


@pytest.mark.parametrize("signal", ["up", "retraction", "unheard of", ""])
def test_silence_is_not_where_anybody_said_anything(signal: str):
    of, joiner = prediction_id(0), rewarding()
    read(joiner, prediction(of), feedback(of, "x", signal, 1.0))
    joiner.expire(LATER)
    assert list(states(joiner)) == [(of, "x")]


def test_what_nobody_saw_gets_no_default_reward_and_leaves():
    of, joiner = prediction_id(0), rewarding()
    event = prediction(of)
    event.prediction.not_shown = True
    read(joiner, event)
    joiner.expire(LATER)
    assert states(joiner) == {} and joiner._db.execute("SELECT * FROM predictions").fetchall() == []


def test_a_default_reward_of_the_held_out_tenth_neither_trains_nor_evaluates():
    of, joiner = prediction_id(0, held_out=True), rewarding()
    read(joiner, prediction(of))
    joiner.expire(LATER)
    batches = MicroBatches(joiner._db, [LabelledExample("bad", 0)], ("negative", "positive"))
    assert list(states(joiner).values()) == [HELD_OUT] and batches.held_out(9) == {} and batches.waiting() == 0


def test_a_judgement_in_time_that_is_read_after_all_takes_the_default_rewards_place():
    of, joiner = prediction_id(0), rewarding()
    read(joiner, prediction(of))
    joiner.expire(LATER)
    read(joiner, feedback(of, "x", "down", 5.0))
    expected = {(of, "x"): JOINED, (of, default_reward_id(of)): State.FEEDBACK_STATE_SUPERSEDED}
    assert states(joiner) == expected
    joiner._db.execute("DELETE FROM predictions")
    read(joiner, prediction(of))
    assert states(joiner) == expected


def test_rounds_are_bounded_and_reach_everything(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retention, "ROUND", 4)
    monkeypatch.setattr(module, "ROUND", 4)
    joiner = rewarding()
    read(joiner, *(prediction(prediction_id(number)) for number in range(10)))
    counts = []
    for _ in range(3):
        more = joiner.expire(LATER)
        counts.append((len(states(joiner)), more))
    assert counts == [(4, True), (8, True), (10, False)]
    read(joiner, prediction(prediction_id(10)))  # from an outbox that was away
    joiner.expire(LATER)
    assert len(states(joiner)) == 11


def test_a_learner_that_was_down_reads_on_before_it_takes_silence_for_an_answer(tmp_path: Path):
    world = World(tmp_path, held_out=False)
    world.read(prediction(world.of))
    world.now = LATER + 1000.0
    world.journal.expire(world.joiner, [0], 1e6)
    assert states(world.joiner) == {}
    new(world, "up")
    world.passes(0.0)
    assert states(world.joiner) == {(world.of, "new"): JOINED}


def test_a_clock_of_the_future_ends_no_window(tmp_path: Path):
    world = World(tmp_path, held_out=False)
    world.read(prediction(world.of), prediction(prediction_id(0, seconds=1e6), seconds=1e6))
    world.journal.expire(world.joiner, [0], 1e6)
    assert states(world.joiner) == {}


# Labelled rows


def test_a_labelled_row_trains_once_and_a_tenth_is_held_out():
    joiner = new_joiner()
    read(joiner, *(row(str(number)) for number in range(200)))
    read(joiner, *(row(str(number)) for number in range(200)))
    found = states(joiner)
    assert len(found) == 200 and {of for of, _ in found} == {f"example:{number}" for number in range(200)}
    assert all(state == (HELD_OUT if is_held_out(of) else JOINED) for (of, _), state in found.items())
    assert 5 <= list(found.values()).count(HELD_OUT) <= 40


def test_a_labelled_row_is_learnt_as_a_correction():
    (name, *_), joiner = names(held_out=False), new_joiner()
    read(joiner, row(name, "negative", SOURCE_EXPERT))
    batch = MicroBatches(joiner._db, [LabelledExample("bad", 0)], ("negative", "positive")).choose(nominal=8, limit=8, rng=random.Random(0))
    assert batch.feedback_examples == (FeedbackExample(f"text {name}", 0, +1, 1.0, is_correction=True),) and batch.by_expert == (True,)


def test_a_labelled_row_with_an_unknown_label_is_rejected():
    joiner = new_joiner()
    read(joiner, row("x", "purple"))
    assert list(states(joiner).values()) == [State.FEEDBACK_STATE_REJECTED]


# Order


@given(history=histories(), data=st.data())
def test_pages_rows_and_silence_in_any_order_come_to_the_same(history: list[Event], data: st.DataObject):
    events = [*history, *(row(str(number)) for number in range(data.draw(st.integers(0, 2))))]
    mixed = data.draw(st.permutations([*events, *data.draw(st.lists(st.sampled_from(events), max_size=3) if events else st.just([]))]))
    cut = data.draw(st.integers(0, len(mixed)))
    whole, pages = rewarding(), rewarding()
    read(whole, *events)
    read(pages, *mixed[:cut])
    read(pages, *mixed[cut:])
    for joiner in (whole, pages):
        joiner.expire(LATER)
    assert states(pages) == states(whole)


# Second thoughts


def replayable(world: World) -> Sequence[int]:
    return world.batches.choose(nominal=64, limit=64, rng=random.Random(1)).replayed


@pytest.mark.parametrize("signal", ["down", "retraction"])
def test_a_vote_that_is_taken_back_before_its_step_never_trains(signal: str, tmp_path: Path):
    world = World(tmp_path, held_out=False)
    there(world, "joined")
    new(world, signal)
    batch = world.batches.choose(nominal=8, limit=64, rng=random.Random(0))
    assert [example.sign for example in batch.feedback_examples] == ([-1] if signal == "down" else [])


@pytest.mark.parametrize("state", ["trained", "served"])
@pytest.mark.parametrize("signal", ["down", "retraction"])
def test_a_vote_that_is_taken_back_after_its_step_leaves_the_reservoir(signal: str, state: str, tmp_path: Path):
    world = World(tmp_path, held_out=False)
    there(world, state)
    (old,) = replayable(world)
    new(world, signal)
    assert old not in replayable(world)
    world.step()
    assert world.state("new") == ("trained" if signal == "down" else "retracted") and old not in replayable(world)


@pytest.mark.parametrize("meanwhile", ["undone", "given back", "released", "dropped", "standing again"])
@pytest.mark.parametrize("signal", ["down", "retraction"])
def test_a_vote_taken_back_stays_so_whatever_happens_to_its_step(signal: str, meanwhile: str, tmp_path: Path):
    world = World(tmp_path, held_out=False)
    there(world, "quarantined" if meanwhile in ("released", "dropped") else "trained")
    (old,) = (one for (one,) in world.journal.db.execute("SELECT id FROM feedback WHERE feedback_id = 'there'"))
    new(world, signal)
    state = world.state("there")
    if meanwhile in ("undone", "standing again"):
        world.roll_back()
    if meanwhile == "given back":
        world.journal.give_back([old])
    if meanwhile == "standing again":
        world.journal.reset(2, RECIPE, b"x", "it was right after all")
    if meanwhile == "released":
        world.quarantine().release([], who="ann", why="")
    if meanwhile == "dropped":
        world.quarantine().drop([], who="ann", why="")
    assert world.state("there") == state and state in ("superseded", "retracted")
    batch = world.batches.choose(nominal=64, limit=64, rng=random.Random(0))
    assert old not in (*batch.new, *batch.replayed)


@pytest.mark.parametrize("how", ["retracted", "dropped"])
def test_a_rebuild_leaves_out_what_was_taken_back_while_its_step_was_undone(how: str, tmp_path: Path):
    world = World(tmp_path, held_out=False)
    there(world, "quarantined")
    (old,) = (one for (one,) in world.journal.db.execute("SELECT id FROM feedback"))
    if how == "dropped":
        world.quarantine().drop([], who="ann", why="")
    else:
        world.quarantine().release([], who="ann", why="")
        new(world, "retraction")
    world.journal.reset(2, RECIPE, b"x", "it was right after all")
    assert world.state("there") == ("rejected" if how == "dropped" else "retracted")
    assert list(world.journal.taken_back_since(1)) == [old]


def test_what_was_used_twice_is_not_replayed_when_its_steps_stand_again(tmp_path: Path):
    world = World(tmp_path, held_out=False)
    there(world, "trained")
    (old,) = replayable(world)
    row = world.journal.train(world.batches.choose(nominal=8, limit=8, rng=random.Random(0)), RECIPE, b"y", losses={})
    assert row.body["replayed"] == (old,)
    world.roll_back()
    world.journal.reset(row.version or 0, RECIPE, b"y", "it was right after all")
    assert world.state("there") == "trained" and old not in replayable(world)
    world.roll_back()
    world.quarantine().release([], who="ann", why="")
    world.step()
    assert replayable(world) == (old,)  # introduced anew, it is replayed once again


def test_a_dropped_judgement_remains_its_judges_last_word(tmp_path: Path):
    world = World(tmp_path, held_out=False)
    there(world, "quarantined")
    world.quarantine().drop([], who="ann", why="")
    new(world, "down", 1.0)
    assert (world.state("there"), world.state("new")) == ("rejected", "superseded")


def test_a_held_out_row_that_was_taken_back_is_not_asked_again(tmp_path: Path):
    world = World(tmp_path, held_out=True)
    there(world, "held out")
    assert len(world.batches.held_out(9)) == 1
    new(world, "retraction")
    assert world.batches.held_out(9) == {}


# Experts


@pytest.mark.parametrize(
    ("plain", "expert", "expected"),
    [
        ([1.0], [True], [2.0]),
        ([1.0, 1.0], [False, True], [1.0, 2.0]),
        ([1.0] * 8, [True] * 4 + [False] * 4, [1.0] * 8),
        ([1.0] * 8, [True] * 8, [0.5] * 8),
        ([0.5] * 8, [True] * 8, [0.5] * 8),
        ([1.0, 0.5, 1.0, 1.0], [True, True, True, False], [1.6, 0.8, 1.6, 1.0]),
        ([], [], []),
    ],
)
def test_experts_weigh_more_and_together_no_more_than_their_share(plain: list[float], expert: list[bool], expected: list[float]):
    assert effective(plain, expert, nominal=8, weight=2.0, share=0.5) == pytest.approx(expected)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=70),
    st.floats(0.1, 10),
    st.floats(0.01, 1),
)
def test_nobody_elses_weight_changes_and_no_expert_is_dropped(step: list[tuple[float, bool]], weight: float, share: float):
    plain, expert = [one for one, _ in step], [is_expert for _, is_expert in step]
    found = effective(plain, expert, nominal=8, weight=weight, share=share)
    assert all(one == before for one, before, is_expert in zip(found, plain, expert, strict=True) if not is_expert)
    assert sum(one for one, is_expert in zip(found, expert, strict=True) if is_expert) <= share * max(8, len(step)) * (1 + 1e-9)
    assert all(one > 0 for one, before in zip(found, plain, strict=True) if before > 1e-300)


def test_a_micro_batch_without_experts_is_left_as_it_is():
    batch = MicroBatch((1,), (), (), (FeedbackExample("a", 0, 1, 0.3),), ())
    assert weighted(batch, nominal=8, weight=2.0, share=0.5) == batch.feedback_examples


# Counted


def test_every_state_and_reason_is_counted_but_not_what_was_taken_back(tmp_path: Path):
    world = World(tmp_path, held_out=False)
    others = [prediction_id(number) for number in range(1, 4)]
    events = [feedback(of, "x", signal, 1.0) for of, signal in zip(others, ("up", "down", "up"), strict=True)]
    for event, reasons in zip(events, (["rude", "long"], ["long"], ["gone"]), strict=True):
        event.feedback.feedback.reasons.extend(reasons)
    world.read(*map(prediction, others), *events, feedback(others[2], "y", "retraction", 2.0))
    found = JournalView(tmp_path / "learner.db").summary()
    assert [(one.name, one.count) for one in found.reasons] == [("long", 2), ("rude", 1)]
    assert {one.name: one.count for one in found.states} == {"joined": 2, "retracted": 2}
    assert {one.name: one.count for one in found.signals} == {"up": 2, "down": 1, "retraction": 1}
    everything = found.live[0]
    assert (everything.name, everything.judged, everything.judges, everything.accuracy.value) == ("all", 2, 1, 0.5)
    assert everything.accuracy.low < 0.5 < everything.accuracy.high and not found.HasField("holdout_uplift")
