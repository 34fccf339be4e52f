"""A loop of real processes under test, and what the tests ask of it. Knows processes, clients and deadlines; no service's insides."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from liveloop.client import Client
from liveloop.errors import LiveloopError, NotFound
from liveloop.settings import Settings
from liveloop.v1.inference_pb2 import ACK_STATUS_ACCEPTED, FeedbackAck, Prediction
from liveloop.v1.learner_pb2 import FeedbackState, GetFeedbackStatusResponse
from services.commands.processes import Loop
from services.learner.joiner import is_held_out

LIVELOOP = Path(sys.executable).with_name("liveloop")
PATIENCE = 60.0  # seconds after which what has not happened counts as never happening: two busy cores can be slow

STARTED: list[Running] = []  # those whose logs belong under a failure

Found = TypeVar("Found")


def wait_for(what: Callable[[], Found | None], claim: str, seconds: float = PATIENCE) -> Found:
    """The first true answer of `what`, asked again and again; an assertion naming `claim` when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {claim}"
        time.sleep(0.05)


class Running:
    """One loop: its processes and a client."""

    def __init__(self, settings: Settings, *, services: Collection[str] = ("learner", "inference", "gateway")) -> None:
        self.settings = settings
        self.processes = Loop(settings, services=tuple(services))
        self.client = self.new_client()

    @property
    def grpc_target(self) -> str:
        return self.settings.inference_listen

    @property
    def learner_target(self) -> str:
        return self.settings.learner_target or self.settings.learner_listen

    @property
    def http_url(self) -> str:
        return f"http://{self.settings.gateway_listen}"

    def new_client(self, timeout: float = 20.0) -> Client:
        return Client(self.grpc_target, learner=self.learner_target, timeout=timeout)

    def start(self) -> None:
        """Raises Misconfigured as the processes do."""
        STARTED.append(self)
        self.processes.start(timeout=300)

    def stop(self) -> None:
        """Harmless when it did not start."""
        self.client.close()
        self.processes.stop()
        if self in STARTED:
            STARTED.remove(self)

    def logs(self) -> dict[str, str]:
        """The last lines of every service."""
        paths = {service: self.processes.log(service) for service in self.processes.services}
        return {service: "\n".join(path.read_text().splitlines()[-40:]) for service, path in paths.items() if path.exists()}

    # Asking

    def predict(self, text: str, *, held_out: bool = False, user: str = "") -> Prediction:
        """An answer that can be judged; one whose feedback is kept to check the model with where `held_out`, else never."""
        while True:
            for prediction in self.client.predict([text] * 8, user=user):
                if is_held_out(prediction.prediction_id) == held_out:
                    return prediction

    def score(self, text: str, label: str) -> tuple[int, float]:
        """The version that answers now, and the probability it gives `label`."""
        prediction = self.client.predict(text, store=False)
        return prediction.version, next(score.score for score in prediction.scores if score.label == label)

    def accepted(self, ack: FeedbackAck) -> FeedbackAck:
        assert ack.status == ACK_STATUS_ACCEPTED, ack
        return ack

    def status(self, prediction: Prediction, ack: FeedbackAck) -> GetFeedbackStatusResponse | None:
        """What became of a feedback; None while the learner has not read it or cannot be asked."""
        try:
            return self.client.status(prediction.prediction_id, ack.feedback_id)
        except NotFound:
            return None

    def wait_state(self, prediction: Prediction, ack: FeedbackAck, *states: int, seconds: float = PATIENCE) -> GetFeedbackStatusResponse:
        """The status once it is one of `states`."""
        names = " or ".join(FeedbackState.Name(state) for state in states)

        def reached() -> GetFeedbackStatusResponse | None:
            status = self.status(prediction, ack)
            return status if status and status.state in states else None

        return wait_for(reached, f"feedback {ack.feedback_id} is {names}", seconds)

    def wait_settled(self) -> int:
        """The version that answers once no newer one follows for 2 s."""
        version, since = self.client.model().version, time.monotonic()
        deadline = since + PATIENCE
        while time.monotonic() - since < 2.0:
            assert time.monotonic() < deadline, "versions never settle"
            time.sleep(0.1)
            now = self.client.model().version
            if now != version:
                version, since = now, time.monotonic()
        return version

    def answers(self) -> bool:
        """Inference answers."""
        try:
            return bool(self.client.predict("is anybody there", store=False).version)
        except LiveloopError:
            return False
