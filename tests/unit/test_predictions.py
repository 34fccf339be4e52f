"""From a computed answer to what is shown, logged and signed: exploring, holding out, asking."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from random import Random

import pytest

from liveloop.events.sqlite import Verdict
from liveloop.keys import TokenKeys
from liveloop.policy import Policy
from liveloop.tasks import Answer, Encoded
from liveloop.v1.events_pb2 import Event, Input, PredictionEvent
from liveloop.v1.inference_pb2 import Prediction, PredictRequest
from liveloop.weights.channels import Channel
from services.inference.asking import Asking
from services.inference.batcher import Computed
from services.inference.predictions import PredictionDesk
from services.inference.tokens import Tokens

LABELS = ("red", "green", "blue")
PROBABILITIES = (0.25, 0.625, 0.125)
BEST = 1
TEXT = Input(text="grass")
UNEXPLORED = {
    "not stored": (PredictRequest(user="ann", store=False), Channel.CURRENT),
    "perhaps not shown": (PredictRequest(user="ann", not_shown=True), Channel.CURRENT),
    "held out": (PredictRequest(user="ann"), Channel.HOLDOUT),
}


class Log:
    """An intake that remembers."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.events: list[PredictionEvent] = []

    def offer(self, event: Event) -> bool:
        if not self.full:
            self.events.append(event.prediction)
        return not self.full

    def accept(self, event: Event) -> Future[Verdict]:
        raise AssertionError(f"predictions are offered: {event}")


class Desk:
    """A desk of this policy, and what it left behind."""

    def __init__(self, policy: str = "argmax", *, ask_share: float = 0.0, full: bool = False) -> None:
        self.log = Log(full=full)
        self.tokens = Tokens(TokenKeys("1", {"1": b"k" * 32}), b"a" * 32, window=100.0, clock=lambda: 1e9)
        self.desk = PredictionDesk(
            self.log, self.tokens, labels=LABELS, policy=Policy.parse(policy), asking=Asking(ask_share), clock=lambda: 1e9
        )

    def answer(
        self,
        name: str,
        request: PredictRequest | None = None,
        *,
        channel: Channel = Channel.CURRENT,
        probabilities: tuple[float, ...] = PROBABILITIES,
    ) -> Prediction:
        computed = Computed(channel, 5, Answer(BEST, probabilities, 1.0))
        return self.desk.answer(request or PredictRequest(user="ann"), name, TEXT, Encoded((1, 2), truncated=False), computed)


def names(count: int) -> Iterator[str]:
    random = Random(3)
    return (str(uuid.UUID(int=random.getrandbits(128))) for _ in range(count))


@pytest.mark.parametrize("policy", ["epsilon:0.5", "temperature:2"])
def test_what_is_shown_logged_and_signed_is_one_choice_with_one_propensity(policy: str) -> None:
    desk, shown = Desk(policy), set()
    propensities = Policy.parse(policy).tickets(PROBABILITIES, BEST)
    for name in names(60):
        found = desk.answer(name)
        label = LABELS.index(found.label)
        event, claims = desk.log.events[-1], desk.tokens.verify(found.feedback_token, name)
        assert found.propensity == event.propensity == claims.propensity == propensities[label] / 2**24
        assert (event.label, event.score) == (found.label, PROBABILITIES[label])
        assert [(score.label, score.score) for score in found.scores] == [("green", 0.625), ("red", 0.25), ("blue", 0.125)]
        shown.add(found.label)
    assert shown == set(LABELS)


def test_the_same_prediction_is_always_drawn_alike() -> None:
    one, other = Desk("epsilon:1"), Desk("epsilon:1")
    assert [one.answer(name).label for name in names(50)] == [other.answer(name).label for name in names(50)]


@pytest.mark.parametrize("why", UNEXPLORED)
def test_the_best_label_answers_what_is_not_to_be_explored_and_nobody_is_asked_about_it(why: str) -> None:
    request, channel = UNEXPLORED[why]
    desk = Desk("epsilon:1", ask_share=1.0)
    found = [desk.answer(name, request, channel=channel) for name in names(30)]
    assert {(one.label, one.propensity, one.feedback_wanted) for one in found} == {("green", 1.0, False)}
    assert len(desk.log.events) == (0 if why == "not stored" else 30)


def test_the_log_knows_who_was_held_out() -> None:
    desk = Desk()
    desk.answer("a", channel=Channel.HOLDOUT)
    assert desk.log.events[0].channel == Channel.HOLDOUT


def test_a_label_that_the_model_gives_no_chance_is_logged_with_the_least_one() -> None:
    desk = Desk("epsilon:1")
    scores = {desk.answer(name, probabilities=(0.0, 1.0, 0.0)).label: desk.log.events[-1].score for name in names(50)}
    assert scores == {"red": 2.0**-126, "green": 1.0, "blue": 2.0**-126}


def test_feedback_is_wanted_on_the_doubtful_answers() -> None:
    desk = Desk(ask_share=0.25)
    sure, doubtful = (0.02, 0.97, 0.01), (0.45, 0.5, 0.05)
    wanted = [desk.answer(name, probabilities=doubtful if number % 4 else sure).feedback_wanted for number, name in enumerate(names(400))]
    assert not any(wanted[::4])
    assert 92 <= sum(wanted) <= 108


def test_what_cannot_be_judged_is_not_asked_about() -> None:
    assert not any(Desk(ask_share=1.0, full=True).answer(name).feedback_wanted for name in names(20))
    assert all(Desk(ask_share=1.0).answer(name).feedback_wanted for name in names(20))
