"""Somebody is forgotten on a running loop: answers go on, the weights are rebuilt without them, and every version can be proved or not."""

import subprocess

import pytest

from liveloop.errors import NotFound
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.learner_pb2 import VersionState
from tests.e2e.running import LIVELOOP, Running, wait_for

ANN = {"who": "ann", "why": "she asked to be forgotten"}
EQUAL, ERASED = 0, 3


def reproduce(loop: Running, version: int) -> tuple[int, str]:
    command = [LIVELOOP, "reproduce", str(version), "--data", loop.settings.data]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    return ended.returncode, ended.stdout + ended.stderr


def test_who_is_forgotten_leaves_the_weights_while_predictions_go_on(loop: Running) -> None:
    thumbs = {}
    for user, text in (("zoe", "forget that I asked"), ("yan", "keep what I said")):
        prediction = loop.predict(text, user=user)
        thumbs[user] = (prediction, loop.accepted(loop.client.feedback(prediction, "down")))
        loop.wait_state(*thumbs[user], State.FEEDBACK_STATE_SERVED)
    learnt = loop.wait_settled()
    code, said = reproduce(loop, learnt)
    assert code == EQUAL, said

    done = loop.client.forget(user="zoe", rebuild=True, **ANN)
    assert done.predictions >= 1 and done.feedback == 1 and done.rebuilt > learnt
    wait_for(lambda: loop.client.model().version >= done.rebuilt, "the rebuilt version is served")
    with pytest.raises(NotFound):
        loop.client.status(thumbs["zoe"][0].prediction_id)
    assert loop.wait_state(*thumbs["yan"], State.FEEDBACK_STATE_SERVED, State.FEEDBACK_STATE_TRAINED).version == done.rebuilt
    assert loop.client.version(learnt).version.state == VersionState.VERSION_STATE_REPLACED
    code, said = reproduce(loop, learnt)
    assert code == ERASED, said
    code, said = reproduce(loop, done.rebuilt)
    assert code == EQUAL, said
