"""Where a version came from, as the journal of a real learner tells it through gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from liveloop import NotFound
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.learner_pb2 import GetVersionResponse
from tests.unit.test_joiner import prediction_id
from tests.unit.test_learning import RECIPE
from tests.unit.test_operator import ANN, Led


@pytest.fixture
def led(tmp_path: Path) -> Iterator[Led]:
    found = Led(tmp_path)
    found.turn_until(found.is_quiet)
    yield found
    found.end()


def decided(found: GetVersionResponse) -> list[tuple[str, str]]:
    return [(one.decision, one.who) for one in found.decisions]


def test_a_version_tells_what_its_step_learnt_from_and_with_what(led: Led):
    settled = led.learn()
    found = led.client.version(settled - 1)
    assert found.version.kind == "train" and found.version.parent == found.version.version - 1
    (learnt,) = found.feedback
    name = (learnt.feedback.prediction_id, learnt.feedback.feedback_id)
    assert name == (prediction_id(0), "x") and (learnt.signal, learnt.state) == ("up", State.FEEDBACK_STATE_TRAINED)
    assert len(found.task_rows) == RECIPE.micro_batch and set(found.losses) == {"task_loss", "feedback_loss", "gradient_norm"}
    assert json.loads(found.recipe)["learning_rate"] == RECIPE.learning_rate
    assert led.client.version(settled).state_digest == led.publisher.state.digest.hex()
    assert found.signer == blake3(led.key.public_key().public_bytes_raw()).hexdigest()


def test_feedback_leads_to_its_version_and_back_after_a_restart(led: Led):
    led.learn()
    led.crash()
    status = led.client.status(prediction_id(0))
    (learnt,) = led.client.version(status.version).feedback
    assert learnt.feedback.feedback_id == status.feedback_id and led.client.version(status.version).version.step == status.step


def test_a_version_tells_who_decided_what_about_it_and_why(led: Led):
    first, second = led.learn(), led.learn()
    led.order(lambda client: client.pin(first, **ANN))
    led.order(lambda client: client.promote(first, **ANN))
    made = led.order(lambda client: client.rollback(first, **ANN)).version
    kept, undone, back = (led.client.version(version) for version in (first, second, made))
    assert set(decided(kept)) >= {("pin", "ann"), ("promote", "ann"), ("return", "ann")}
    assert decided(undone)[-1] == ("rollback", "ann") and f"back to version {first}" in undone.decisions[-1].why
    assert decided(back)[0] == ("rollback", "ann") and back.decisions[0].why.endswith(ANN["why"])


def test_the_guards_blessing_says_how_the_version_compared(led: Led):
    found = led.client.version(led.learn())
    assert decided(found) == [("pass", "guard"), ("bless", "guard")]
    assert "against version" in found.decisions[0].why and "points" in found.decisions[0].why


def test_a_version_that_never_was_is_not_found(led: Led):
    with pytest.raises(NotFound, match="no version 99"):
        led.client.version(99)
