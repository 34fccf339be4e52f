"""Weights change under load: no request fails, and every answer was computed by the one version it names."""

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from liveloop.v1.inference_pb2 import Prediction
from liveloop.v1.learner_pb2 import FeedbackState as State
from tests.e2e.running import Running

TEXT = "neither good nor bad, which is worse"
CALLERS = 4
ROUNDS = 12  # thumbs given one after the other: at least as many flips


def test_flips_fail_no_request_and_every_answer_is_of_one_version(loop: Running) -> None:
    done = threading.Event()

    def ask(caller: int) -> list[Prediction]:
        with loop.new_client() as client:
            answers = []
            while not done.is_set():
                answers += client.predict([TEXT] * (1 + 3 * caller), store=False)
            return answers

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(ask, caller) for caller in range(CALLERS)]
        try:
            for round_ in range(ROUNDS):
                prediction = loop.predict(f"{TEXT}, number {round_}")
                ack = loop.accepted(loop.client.feedback(prediction, label=("negative", "positive")[round_ % 2]))
                loop.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
        finally:
            done.set()
        answers = [caller.result() for caller in callers]

    for seen in answers:
        versions = [answer.version for answer in seen]
        assert versions == sorted(versions), "an answer came from an older version than the one before it"
    scores: dict[int, list[float]] = defaultdict(list)
    for answer in (answer for seen in answers for answer in seen):
        scores[answer.version].append(next(score.score for score in answer.scores if score.label == "positive"))
    assert len(scores) >= ROUNDS
    spreads = {version: max(found) - min(found) for version, found in scores.items()}
    assert max(spreads.values()) < 1e-5, "one version gave two answers"
    middles = [sum(found) / len(found) for _, found in sorted(scores.items())]
    steps = [abs(one - two) for one, two in pairwise(middles)]
    assert max(steps) > 10 * max(spreads.values()), "versions do not differ enough to tell a mixture of two"
