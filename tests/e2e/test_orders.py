"""What an operator orders, on a running loop: it happens, it is served, and it outlives a restart."""

from collections.abc import Callable

import pytest

from liveloop.errors import LiveloopError, NotNow, Unavailable
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.learner_pb2 import Version, VersionState
from tests.e2e.running import Running, wait_for

ANN = {"who": "ann", "why": "to see what happens"}
SAME, MOVED = 1e-5, 1e-4  # probabilities: batches differ in their last bits; a thumb moves an answer by more


def version_of(loop: Running, number: int) -> Version:
    return next(version for version in loop.client.versions(1000) if version.version == number)


def once_it_leads(order: Callable[[], object]) -> None:
    """Give an order to a learner that has just been restarted."""

    def given() -> bool:
        try:
            order()
        except (NotNow, Unavailable):
            return False
        return True

    wait_for(given, "the learner leads again")


def test_a_rollback_is_served_and_what_it_undid_trains_again_once_released(loop: Running) -> None:
    text = "an order from above"
    base = loop.wait_settled()
    prediction = loop.predict(text)
    before = loop.score(text, prediction.label)[1]
    ack = loop.accepted(loop.client.feedback(prediction, "down"))
    learnt = loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
    undone = loop.wait_settled()
    assert abs(loop.score(text, prediction.label)[1] - before) > MOVED

    done = loop.client.rollback(base, **ANN)
    assert done.quarantined == 1 and done.version > undone
    wait_for(lambda: loop.client.model().version >= done.version, "the rollback is served")
    assert loop.score(text, prediction.label)[1] == pytest.approx(before, abs=SAME)
    assert "ann" in loop.wait_state(prediction, ack, State.FEEDBACK_STATE_QUARANTINED).reason
    assert version_of(loop, undone).state == VersionState.VERSION_STATE_ROLLED_BACK
    name = (prediction.prediction_id, ack.feedback_id)
    assert name in {(one.prediction_id, one.feedback_id) for one in loop.client.quarantine().feedback}

    assert loop.client.release([name], **ANN) == 1
    again = loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
    assert again.version > done.version and again.step > learnt.step
    assert name not in {(one.prediction_id, one.feedback_id) for one in loop.client.quarantine().feedback}


def test_a_pause_and_a_pin_outlive_a_restart_until_they_are_taken_back(loop: Running) -> None:
    quiet = loop.wait_settled()
    loop.client.pause(**ANN)
    try:
        loop.client.pin(quiet, **ANN)
        prediction = loop.predict("nobody listens today")
        ack = loop.accepted(loop.client.feedback(prediction, "up"))
        loop.wait_state(prediction, ack, State.FEEDBACK_STATE_JOINED)
        loop.processes.restart("learner")
        assert loop.wait_settled() == quiet
        loop.wait_state(prediction, ack, State.FEEDBACK_STATE_JOINED)
        assert version_of(loop, quiet).pinned
    finally:
        once_it_leads(lambda: loop.client.resume(**ANN))
    loop.client.unpin(quiet, **ANN)
    assert not version_of(loop, quiet).pinned
    assert loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED).version == quiet + 1


def test_a_promotion_moves_the_blessed_version_that_pods_name(loop: Running) -> None:
    older = loop.wait_settled()
    prediction = loop.predict("one of two")
    loop.wait_state(prediction, loop.accepted(loop.client.feedback(prediction, "up")), State.FEEDBACK_STATE_SERVED)
    newest = loop.wait_settled()
    wait_for(lambda: version_of(loop, newest).scores, "the newest version is evaluated, and moves the blessed one no more")
    loop.client.promote(older, **ANN)
    wait_for(lambda: loop.client.model().blessed_version == older, "the promoted version is the blessed one")
    assert version_of(loop, older).state == VersionState.VERSION_STATE_BLESSED


def test_an_order_that_cannot_be_followed_is_refused_and_changes_nothing(loop: Running) -> None:
    quiet = loop.wait_settled()
    for order in (
        lambda: loop.client.rollback(999_999, **ANN),
        lambda: loop.client.promote(999_999, **ANN),
        lambda: loop.client.unpin(1, **ANN),
        lambda: loop.client.rollback(1, who=""),
    ):
        with pytest.raises(LiveloopError):
            order()
    assert loop.wait_settled() == quiet
