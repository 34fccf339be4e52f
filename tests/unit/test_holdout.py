"""Users who are held out: what they say checks the model and never teaches it, nor decides about a canary."""

from __future__ import annotations

import pytest

from liveloop.tasks import LabelledExample
from liveloop.v1.events_pb2 import CHANNEL_BLESSED, CHANNEL_CURRENT, CHANNEL_HOLDOUT, Channel, Event
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.joiner import Joiner
from services.learner.micro_batch import MicroBatches
from services.learner.promotion import Between, judgements
from tests.unit.test_joiner import START, WINDOW, feedback, new_joiner, prediction, prediction_id, states

HELD_OUT, JOINED = State.FEEDBACK_STATE_HELD_OUT, State.FEEDBACK_STATE_JOINED
OF = prediction_id(0)  # not of the tenth that is held out whoever asks


def answered_by(channel: Channel.ValueType, of: str = OF) -> Event:
    event = prediction(of)
    event.prediction.channel = channel
    return event


def read(*events: Event, default_reward: float | None = None) -> Joiner:
    joiner = Joiner(new_joiner()._db, labels=("negative", "positive"), window=WINDOW, default_reward=default_reward)
    for event in events:
        joiner.take(event)
    joiner.resolve()
    return joiner


def batches(joiner: Joiner) -> MicroBatches:
    return MicroBatches(joiner._db, [LabelledExample("bad", 0)], ("negative", "positive"))


@pytest.mark.parametrize(("signal", "label", "sign"), [("up", 0, 1), ("down", 0, -1), ("positive", 1, 1)])
@pytest.mark.parametrize("prediction_first", [True, False])
def test_what_a_held_out_user_says_checks_the_model_and_never_teaches_it(
    signal: str, label: int, sign: int, prediction_first: bool
) -> None:
    events = [answered_by(CHANNEL_HOLDOUT), feedback(OF, "x", signal, 1.0)]
    joiner = read(*events if prediction_first else reversed(events))
    assert states(joiner) == {(OF, "x"): HELD_OUT}
    assert "held out" in joiner._db.execute("SELECT reason FROM feedback").fetchone()[0]
    assert batches(joiner).waiting() == 0
    (check,) = batches(joiner).held_out(9).values()
    assert (check.label, check.sign) == (label, sign)


@pytest.mark.parametrize("channel", [CHANNEL_CURRENT, CHANNEL_BLESSED])
def test_what_the_others_say_teaches(channel: Channel.ValueType) -> None:
    assert states(read(answered_by(channel), feedback(OF, "x", "up", 1.0))) == {(OF, "x"): JOINED}


def test_a_held_out_user_may_take_back_what_he_said() -> None:
    joiner = read(answered_by(CHANNEL_HOLDOUT), feedback(OF, "x", "up", 1.0), feedback(OF, "y", "retraction", 2.0))
    assert set(states(joiner).values()) == {State.FEEDBACK_STATE_RETRACTED}


def test_the_silence_of_held_out_users_says_nothing() -> None:
    other = prediction_id(1)
    joiner = read(answered_by(CHANNEL_HOLDOUT), answered_by(CHANNEL_CURRENT, other), default_reward=0.75)
    joiner.expire(START + WINDOW + 1)
    assert [of for of, _ in states(joiner)] == [other]
    assert joiner._db.execute("SELECT prediction_id FROM predictions").fetchall() == [(other,)]


def test_what_held_out_users_say_decides_nothing_about_a_canary() -> None:
    channels = {prediction_id(number): channel for number, channel in enumerate((CHANNEL_BLESSED, CHANNEL_HOLDOUT))}
    joiner = read(*(answered_by(channel, of) for of, channel in channels.items()), *(feedback(of, "x", "down", 1.0) for of in channels))
    found = judgements(joiner._db, Between(blessed=1, after=1), START - 1)
    assert [one.channel for one in found] == [CHANNEL_BLESSED]
