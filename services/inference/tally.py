"""What each channel's versions did since it was last asked. Knows counts and seconds; knows no model and no log."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from liveloop.weights.channels import Channel

Served = tuple[Channel, int]
"""A channel and the version that it served."""


@dataclass(slots=True)
class Done:
    """The work of one version in one channel."""

    answered: int = 0  # inputs
    failed: int = 0  # inputs that the model could not compute
    batches: int = 0  # of those answered
    seconds: float = 0.0  # of computing those answered


class Tally:
    """Counts batches as they are computed. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` is seconds from any start."""
        self._clock = clock
        self._lock = threading.Lock()
        self._done: defaultdict[Served, Done] = defaultdict(Done)

    @contextmanager
    def count(self, served: Served, inputs: int) -> Iterator[None]:
        """Time the computing of one batch inside; when that raises, its inputs failed."""
        started = self._clock()
        try:
            yield
        except BaseException:
            with self._lock:
                self._done[served].failed += inputs
            raise
        with self._lock:
            done = self._done[served]
            done.answered += inputs
            done.batches += 1
            done.seconds += self._clock() - started

    def take(self) -> Mapping[Served, Done]:
        """What was done since this was called last."""
        with self._lock:
            done, self._done = self._done, defaultdict(Done)
        return done
