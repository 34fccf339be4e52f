"""How long a thumb takes to be served, as a client sees it. Knows answers, acknowledgements and statuses; knows no service."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from liveloop.client import Client
from liveloop.errors import NotFound
from liveloop.v1.learner_pb2 import FeedbackState as State


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A feedback that was accepted."""

    prediction_id: str
    feedback_id: str
    at: float  # monotonic seconds at which the acknowledgement arrived


class Freshness:
    """From the acknowledgement of a feedback to the first answer computed with weights that include it. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: list[tuple[int, float]] = []  # (version, when first answered), both ascending
        self._waiting: list[Acknowledged] = []
        self._found: list[float] = []
        self.trained = 0
        self.held_out = 0

    def answered(self, version: int) -> None:
        """An answer computed by `version` has just arrived."""
        with self._lock:
            if not self._answers or version > self._answers[-1][0]:
                self._answers.append((version, time.monotonic()))

    def acknowledged(self, prediction_id: str, feedback_id: str) -> None:
        """A feedback has just been accepted."""
        with self._lock:
            self._waiting.append(Acknowledged(prediction_id, feedback_id, time.monotonic()))

    def settle(self, client: Client) -> int:
        """Ask what became of the feedbacks still open; returns how many remain so."""
        with self._lock:
            waiting = list(self._waiting)
        done = [one for one in waiting if self._settled(one, client)]
        with self._lock:
            self._waiting = [one for one in self._waiting if one not in done]
            return len(self._waiting)

    def seconds(self) -> list[float]:
        """Freshness of every feedback that is served, in the order in which they settled."""
        with self._lock:
            return list(self._found)

    def _settled(self, one: Acknowledged, client: Client) -> bool:
        try:
            status = client.status(one.prediction_id, one.feedback_id)
        except NotFound:
            return False
        if status.state in (State.FEEDBACK_STATE_PENDING, State.FEEDBACK_STATE_JOINED):
            return False
        with self._lock:
            if not status.version:
                self.held_out += status.state == State.FEEDBACK_STATE_HELD_OUT
                return True
            first = bisect.bisect_left(self._answers, (status.version, 0.0))
            if first == len(self._answers):
                return False
            self.trained += 1
            self._found.append(max(0.0, self._answers[first][1] - one.at))
            return True


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie (nearest rank); NaN where there are none."""
    if not values:
        return float("nan")
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
