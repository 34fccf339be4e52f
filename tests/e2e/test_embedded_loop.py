"""The whole loop on one machine, on files: what one person's judgement does."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from liveloop.errors import InvalidInput
from liveloop.v1.inference_pb2 import ACK_STATUS_DUPLICATE, ACK_STATUS_REJECTED, Prediction
from liveloop.v1.learner_pb2 import FeedbackState as State
from tests.e2e.running import Running, wait_for


def other_label(prediction: Prediction) -> str:
    return prediction.scores[-1].label


def test_a_thumb_down_is_trained_then_served_and_turns_the_answer_away(loop: Running) -> None:
    text = "the plot is thin, and yet I stayed to the end"
    prediction = loop.predict(text)
    ack = loop.accepted(loop.client.feedback(prediction, "down"))
    loop.wait_state(prediction, ack, State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_SERVED)
    served = loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
    assert served.version > prediction.version
    assert served.step > 0
    assert served.served_at.ToNanoseconds() >= served.accepted_at.ToNanoseconds()
    loop.wait_settled()
    version, score = loop.score(text, prediction.label)
    assert version >= served.version
    assert score < prediction.scores[0].score


def test_a_thumb_up_makes_the_answer_surer(loop: Running) -> None:
    text = "somewhat slow but rewarding"
    prediction = loop.predict(text)
    ack = loop.accepted(loop.client.feedback(prediction, "up"))
    loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
    loop.wait_settled()
    assert loop.score(text, prediction.label)[1] > prediction.scores[0].score


def test_a_correction_moves_the_answer_to_the_right_label(loop: Running) -> None:
    text = "a film one forgets on the way home"
    prediction = loop.predict(text)
    right = other_label(prediction)
    ack = loop.accepted(loop.client.feedback(prediction, label=right))
    loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
    loop.wait_settled()
    assert loop.score(text, right)[1] > prediction.scores[-1].score


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
    assert loop.wait_settled() == quiet + 4
    kinds = {version.version: version.kind for version in loop.client.versions()}
    assert [kinds[quiet + 1 + n] for n in range(4)] == ["train", "settle", "settle", "settle"]


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
