"""The whole loop on one machine, on files: what one person's judgement does."""

import math
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from liveloop.errors import InvalidInput
from liveloop.v1.inference_pb2 import ACK_STATUS_DUPLICATE, ACK_STATUS_REJECTED, FeedbackAck, Prediction
from liveloop.v1.learner_pb2 import FeedbackState as State
from tests.e2e.running import Running, wait_for

AGREED = 8  # people who say the same: a whole micro-batch
ROUNDS = 8  # of them until the answer must have turned: the labelled rows beside them and what came before also pull
MOVED = 0.2  # in log-odds, more than those move an answer by themselves


def test_a_thumb_is_trained_on_then_served_by_a_newer_version(loop: Running) -> None:
    prediction = loop.predict("the plot is thin, and yet I stayed to the end")
    ack = loop.accepted(loop.client.feedback(prediction, "down"))
    loop.wait_state(prediction, ack, State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_SERVED)
    served = loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
    assert served.version > prediction.version
    assert served.step > 0
    assert served.served_at.ToNanoseconds() >= served.accepted_at.ToNanoseconds()
    assert loop.client.model().version >= served.version


def test_thumbs_up_make_an_answer_surer(loop: Running) -> None:
    text = "a film one forgets on the way home"
    label = loop.predict(text).label
    turn(loop, text, label, lambda prediction: loop.client.feedback(prediction, "up" if prediction.label == label else "down"))


def test_thumbs_down_turn_an_answer_away(loop: Running) -> None:
    text = "somewhat slow but rewarding"
    other = loop.predict(text).scores[-1].label
    turn(loop, text, other, lambda prediction: loop.client.feedback(prediction, "up" if prediction.label == other else "down"))


def test_corrections_bring_an_answer_to_the_right_label(loop: Running) -> None:
    text = "it wants to be funny"
    right = loop.predict(text).scores[-1].label
    turn(loop, text, right, lambda prediction: loop.client.feedback(prediction, label=right))


def test_the_same_feedback_again_is_a_duplicate_also_at_the_same_time(loop: Running) -> None:
    prediction = loop.predict("said once, heard once")
    feedback_id = str(uuid.uuid4())
    loop.accepted(loop.client.feedback(prediction, "up", feedback_id=feedback_id))
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda _: loop.client.feedback(prediction, "up", feedback_id=feedback_id), range(16)))
    assert {ack.status for ack in again} == {ACK_STATUS_DUPLICATE}
    other = loop.client.feedback(prediction, "down", feedback_id=feedback_id)
    assert (other.status, other.code) == (ACK_STATUS_REJECTED, "ALREADY_EXISTS")


def test_a_second_thought_supersedes_the_first(loop: Running) -> None:
    prediction = loop.predict("first I liked it", user="ann")
    first = loop.accepted(loop.client.feedback(prediction, "up"))
    loop.wait_state(prediction, first, State.FEEDBACK_STATE_SERVED)
    second = loop.accepted(loop.client.feedback(prediction, "down"))
    loop.wait_state(prediction, first, State.FEEDBACK_STATE_SUPERSEDED)
    loop.wait_state(prediction, second, State.FEEDBACK_STATE_SERVED)


def test_a_retraction_takes_a_judgement_back(loop: Running) -> None:
    prediction = loop.predict("I should not have said that")
    thumb = loop.accepted(loop.client.feedback(prediction, "down"))
    retraction = loop.accepted(loop.client.retract(prediction))
    loop.wait_state(prediction, thumb, State.FEEDBACK_STATE_RETRACTED)
    loop.wait_state(prediction, retraction, State.FEEDBACK_STATE_RETRACTED)


def test_a_thumb_that_is_held_out_says_so_and_is_not_learnt_from(loop: Running) -> None:
    prediction = loop.predict("kept to check the model with", held_out=True)
    ack = loop.accepted(loop.client.feedback(prediction, "up"))
    status = loop.wait_state(prediction, ack, State.FEEDBACK_STATE_HELD_OUT)
    assert (status.step, status.version) == (0, 0)


def test_nothing_is_learnt_while_nobody_judges_and_a_lone_thumb_then_settles(loop: Running) -> None:
    quiet = loop.wait_settled()
    for _ in range(20):
        loop.predict("asked, never judged")
    assert loop.wait_settled() == quiet
    prediction = loop.predict("a lone thumb in the night")
    ack = loop.accepted(loop.client.feedback(prediction, "down"))
    served = loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
    assert served.version == quiet + 1
    assert loop.wait_settled() == quiet + 2
    kinds = {version.version: version.kind for version in loop.client.versions()}
    assert [kinds[quiet + 1 + n] for n in range(2)] == ["train", "settle"]


def test_an_idle_loop_evaluates_and_blesses_what_it_serves(loop: Running) -> None:
    newest = loop.wait_settled()
    evaluated = wait_for(
        lambda: next((v for v in loop.client.versions() if v.version == newest and v.HasField("accuracy")), None),
        f"version {newest} is evaluated",
    )
    assert 0.5 < evaluated.accuracy <= 1.0
    assert evaluated.current


def test_bad_input_is_refused_by_name_and_leaves_no_trace(loop: Running) -> None:
    quiet = loop.wait_settled()
    with pytest.raises(InvalidInput) as empty:
        loop.client.predict(["fine", ""])
    assert empty.value.field == "inputs[1].text"
    with pytest.raises(InvalidInput):
        loop.client.predict(["x"] * 257)
    prediction = loop.predict("a label nobody has")
    unknown = loop.client.feedback(prediction, label="purple")
    assert (unknown.status, unknown.code) == (ACK_STATUS_REJECTED, "INVALID_ARGUMENT")
    outside = loop.client.feedback(prediction, 1.5)
    assert (outside.status, outside.code) == (ACK_STATUS_REJECTED, "INVALID_ARGUMENT")
    forged = Prediction(prediction_id=prediction.prediction_id, feedback_token=prediction.feedback_token[:-2] + "AA")
    assert loop.client.feedback(forged, "up").code == "PERMISSION_DENIED"
    moved = Prediction(prediction_id=loop.predict("another").prediction_id, feedback_token=prediction.feedback_token)
    assert loop.client.feedback(moved, "up").code == "PERMISSION_DENIED"
    assert loop.wait_settled() == quiet
    assert loop.status(prediction, unknown) is None


def test_a_text_that_is_too_long_for_the_model_is_answered_and_says_it_was_cut(loop: Running) -> None:
    assert loop.client.predict("word " * 3000, store=False).truncated
    assert not loop.client.predict("word", store=False).truncated


def turn(loop: Running, text: str, label: str, judge: Callable[[Prediction], FeedbackAck]) -> None:
    """Let many people judge alike until `label` has clearly become likelier."""
    before = now = log_odds(loop.score(text, label)[1])
    for _ in range(ROUNDS):
        given = [(prediction, loop.accepted(judge(prediction))) for prediction in [loop.predict(text) for _ in range(AGREED)]]
        for prediction, ack in given:
            loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
        loop.wait_settled()
        now = log_odds(loop.score(text, label)[1])
        if now - before > MOVED:
            return
    raise AssertionError(f"the log-odds of {label} went from {before:.2f} to {now:.2f}")


def log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))
