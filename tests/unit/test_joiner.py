"""What becomes of a feedback never depends on the order in which events arrive."""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from liveloop.v1.events_pb2 import (
    THUMB_DOWN,
    THUMB_UP,
    Correction,
    Event,
    Feedback,
    FeedbackEvent,
    Input,
    PodReport,
    PredictionEvent,
    Retraction,
)
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner import joiner as module
from services.learner.joiner import Joiner, is_held_out
from services.learner.retention import time_of

WINDOW = 100.0
START = 1_700_000_000.0


def at(seconds: float) -> Timestamp:
    found = Timestamp()
    found.FromMicroseconds(round((START + seconds) * 1e6))
    return found


def prediction_id(number: int, *, held_out: bool = False, seconds: float = 0.0) -> str:
    """The number-th UUIDv7 of that time that is, or is not, held out."""
    stamp = int((START + seconds) * 1000) << 80 | 7 << 76 | 2 << 62
    found = (str(uuid.UUID(int=stamp | candidate)) for candidate in range(10_000))
    return [one for one, _ in zip((one for one in found if is_held_out(one) is held_out), range(number + 1), strict=False)][number]


def prediction(of: str, *, seconds: float = 0.0) -> Event:
    return Event(
        prediction=PredictionEvent(prediction_id=of, input=Input(text="fine"), label="negative", version=1, created_at=at(seconds))
    )


def feedback(of: str, name: str, signal: str, seconds: float, judge: bytes = b"a") -> Event:
    item = Feedback(feedback_id=name, prediction_id=of)
    if signal in ("up", "down"):
        item.thumb = THUMB_UP if signal == "up" else THUMB_DOWN
    elif signal == "retraction":
        item.retraction.CopyFrom(Retraction())
    elif signal:
        item.correction.CopyFrom(Correction(label=signal))
    return Event(feedback=FeedbackEvent(feedback=item, judge=judge, accepted_at=at(seconds)))


class Resolving(Joiner):
    """Resolves after each event, as a page of one does."""

    def take(self, event: Event) -> float:
        at = super().take(event)
        self.resolve()
        return at


def new_joiner() -> Joiner:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript((Path(module.__file__).parent / "schema.sql").read_text())
    return Resolving(db, labels=("negative", "positive"), window=WINDOW)


def states(joiner: Joiner) -> dict[tuple[str, str], int]:
    return {(one, name): state for one, name, state in joiner._db.execute("SELECT prediction_id, feedback_id, state FROM feedback")}


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Predictions, some of which never come, and judgements of them by two judges."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        of = prediction_id(number, held_out=draw(st.booleans()))
        if draw(st.booleans()):
            found.append(prediction(of))
        for name in range(draw(st.integers(0, 4))):
            signal = draw(st.sampled_from(["up", "down", "positive", "unheard of", "retraction"]))
            found.append(
                feedback(of, str(name), signal, draw(st.sampled_from([1.0, 2.0, 3.0, WINDOW + 1])), draw(st.sampled_from([b"a", b"b"])))
            )
    return found


@given(history=histories(), data=st.data())
def test_states_do_not_depend_on_order_duplication_or_delay(history: list[Event], data: st.DataObject):
    shuffled = data.draw(
        st.permutations([*history, *data.draw(st.lists(st.sampled_from(history), max_size=4) if history else st.just([]))])
    )
    in_order, mixed = new_joiner(), new_joiner()
    for event in history:
        in_order.take(event)
    for event in shuffled:
        mixed.take(event)
    assert states(mixed) == states(in_order)


@given(history=histories())
def test_at_most_one_judgement_of_a_judge_is_live(history: list[Event]):
    joiner = new_joiner()
    for event in history:
        joiner.take(event)
    live = (State.FEEDBACK_STATE_JOINED, State.FEEDBACK_STATE_HELD_OUT)
    counts = joiner._db.execute("SELECT count(*) FROM feedback WHERE state IN (?, ?) GROUP BY prediction_id, judge", live).fetchall()
    assert all(count == 1 for (count,) in counts)


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        (["up"], ["joined"]),
        (["up", "down"], ["superseded", "joined"]),
        (["up", "retraction"], ["retracted", "retracted"]),
        (["up", "retraction", "down"], ["retracted", "retracted", "joined"]),
        (["up", "unheard of"], ["joined", "rejected"]),
        ([""], ["rejected"]),
    ],
)
def test_the_latest_usable_judgement_counts(signals: list[str], expected: list[str]):
    of, joiner = prediction_id(0), new_joiner()
    joiner.take(prediction(of))
    for number, signal in enumerate(signals):
        joiner.take(feedback(of, str(number), signal, 1.0 + number))
    found = states(joiner)
    assert [State.Name(found[of, str(number)]).removeprefix("FEEDBACK_STATE_").lower() for number in range(len(signals))] == expected


@given(history=histories())
def test_a_page_resolved_at_its_end_comes_to_the_same(history: list[Event]):
    one_by_one, page = new_joiner(), new_joiner()
    for event in history:
        one_by_one.take(event)
        Joiner.take(page, event)
    page.resolve()
    assert states(page) == states(one_by_one)


def test_feedback_on_an_answer_with_a_label_of_another_model_is_rejected():
    of, joiner = prediction_id(0), new_joiner()
    event = prediction(of)
    event.prediction.label = "anger"
    joiner.take(event)
    joiner.take(feedback(of, "x", "up", 1.0))
    assert states(joiner)[of, "x"] == State.FEEDBACK_STATE_REJECTED


def test_a_correction_of_an_answer_with_a_label_of_another_model_can_be_taken_back():
    joiner, of = new_joiner(), prediction_id(0)
    answer = prediction(of)
    answer.prediction.label = "neutral"
    for event in (answer, feedback(of, "x", "positive", 1.0), feedback(of, "y", "retraction", 2.0)):
        joiner.take(event)
    assert set(states(joiner).values()) == {State.FEEDBACK_STATE_RETRACTED}


def test_examples_are_forgotten_but_not_while_their_feedback_waits():
    waiting, done, joiner = prediction_id(0), prediction_id(1), new_joiner()
    for of in (waiting, done):
        joiner.take(prediction(of))
        joiner.take(feedback(of, "x", "up", 1.0))
    joiner._db.execute("UPDATE feedback SET state = ? WHERE prediction_id = ?", (State.FEEDBACK_STATE_SERVED, done))
    joiner.forget(START + 1)
    assert joiner._db.execute("SELECT prediction_id FROM predictions").fetchall() == [(waiting,)]


def test_feedback_before_its_prediction_waits_and_then_joins():
    of, joiner = prediction_id(0), new_joiner()
    joiner.take(feedback(of, "x", "up", 1.0))
    assert states(joiner)[of, "x"] == State.FEEDBACK_STATE_PENDING
    joiner.take(prediction(of))
    assert states(joiner)[of, "x"] == State.FEEDBACK_STATE_JOINED


def test_feedback_on_a_held_out_prediction_is_never_joined():
    of, joiner = prediction_id(0, held_out=True), new_joiner()
    joiner.take(prediction(of))
    joiner.take(feedback(of, "x", "up", 1.0))
    assert states(joiner)[of, "x"] == State.FEEDBACK_STATE_HELD_OUT


def test_lateness_is_acceptance_against_the_prediction():
    of, joiner = prediction_id(0), new_joiner()
    joiner.take(prediction(of))
    joiner.take(feedback(of, "in time", "up", WINDOW - 1, b"a"))
    joiner.take(feedback(of, "late", "up", WINDOW + 1, b"b"))
    assert states(joiner) == {(of, "in time"): State.FEEDBACK_STATE_JOINED, (of, "late"): State.FEEDBACK_STATE_EXPIRED}


def test_feedback_expires_only_after_the_log_was_read_past_its_window():
    of, joiner = prediction_id(0), new_joiner()
    joiner.take(feedback(of, "x", "up", 1.0))
    joiner.expire(START + WINDOW - 1)
    assert states(joiner)[of, "x"] == State.FEEDBACK_STATE_PENDING
    joiner.expire(START + WINDOW + 1)
    assert states(joiner)[of, "x"] == State.FEEDBACK_STATE_EXPIRED


def test_predictions_nobody_judged_leave_after_the_window():
    judged, ignored, joiner = prediction_id(0), prediction_id(1), new_joiner()
    for of in (judged, ignored):
        joiner.take(prediction(of))
    joiner.take(feedback(judged, "x", "up", 1.0))
    joiner.expire(START + WINDOW + 1)
    assert joiner._db.execute("SELECT prediction_id FROM predictions").fetchall() == [(judged,)]


def test_served_follows_only_trained_and_keeps_the_first_flip():
    of, joiner = prediction_id(0), new_joiner()
    joiner.take(prediction(of))
    joiner.take(feedback(of, "x", "up", 1.0))
    joiner.take(Event(pod_report=PodReport(pod="p", version=9, flipped_at=at(2), reported_at=at(2))))
    assert states(joiner)[of, "x"] == State.FEEDBACK_STATE_JOINED
    joiner._db.execute("UPDATE feedback SET state = ?, version = 5", (State.FEEDBACK_STATE_TRAINED,))
    joiner.take(Event(pod_report=PodReport(pod="p", version=4, flipped_at=at(3), reported_at=at(3))))
    assert states(joiner)[of, "x"] == State.FEEDBACK_STATE_TRAINED
    for seconds in (4.0, 5.0):
        joiner.take(Event(pod_report=PodReport(pod="p", version=5, flipped_at=at(seconds), reported_at=at(seconds))))
    assert joiner._db.execute("SELECT state, served_at FROM feedback").fetchone() == (
        State.FEEDBACK_STATE_SERVED,
        pytest.approx(START + 4.0),
    )


def test_time_of_an_id_is_that_of_its_uuid7():
    assert time_of(prediction_id(0, seconds=12.5)) == pytest.approx(START + 12.5, abs=1e-3)
    assert time_of("not an id") == 0.0
