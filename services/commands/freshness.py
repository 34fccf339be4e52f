"""How long a thumb takes to be served, as a client sees it. Knows answers, acknowledgements and statuses; knows no service."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from liveloop.client import Client
from liveloop.errors import NotFound
from liveloop.v1.learner_pb2 import FeedbackState as State

_OPEN = frozenset({State.FEEDBACK_STATE_PENDING, State.FEEDBACK_STATE_JOINED})


@dataclass(slots=True)
class Thumb:
    """One acknowledged thumb. `version` is the first that includes it, 0 as long as none does."""

    prediction_id: str
    feedback_id: str
    acknowledged_at: float  # seconds, monotonic
    version: int = 0
    ended: bool = False  # trained or held out or set aside: its state changes no more


@dataclass(slots=True)
class Freshness:
    """Grows while thumbs are given and answers come; the appends of one thread at a time each are safe beside reads of others."""

    thumbs: list[Thumb] = field(default_factory=list)
    _flips: list[tuple[int, float]] = field(default_factory=list)  # (version, time of the first answer it computed), both rising

    def answered(self, version: int, at: float) -> None:
        """An answer computed by `version` came at `at` (seconds, monotonic)."""
        if not self._flips or version > self._flips[-1][0]:
            self._flips.append((version, at))

    def follow(self, client: Client) -> None:
        """Ask what became of the thumbs that wait, oldest first, up to the first that was read and still waits."""
        for thumb in self.waiting:
            try:
                status = client.status(thumb.prediction_id, thumb.feedback_id)
            except NotFound:
                continue
            thumb.version, thumb.ended = status.version, status.state not in _OPEN
            if not thumb.ended:
                return

    @property
    def version(self) -> int:
        """The newest version that answered."""
        return self._flips[-1][0] if self._flips else 0

    @property
    def waiting(self) -> list[Thumb]:
        """Thumbs whose fate is not known yet, oldest first."""
        return [thumb for thumb in self.thumbs if not thumb.ended]

    @property
    def trained(self) -> int:
        """Thumbs that a version includes."""
        return sum(thumb.version > 0 for thumb in self.thumbs)

    def seconds(self) -> list[float]:
        """From each trained thumb's acknowledgement to the first answer computed with a version that includes it."""
        found: list[float] = []
        for thumb in self.thumbs:
            flip = bisect_left(self._flips, (thumb.version, 0.0))
            if thumb.version and flip < len(self._flips):
                found.append(max(0.0, self._flips[flip][1] - thumb.acknowledged_at))
        return found


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else None
