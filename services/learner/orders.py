"""Hands what one thread orders to the thread that may carry it out, and the outcome back. Knows no journal and no gRPC."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from liveloop.errors import InvalidInput, NotFound, NotNow, Overloaded, Unavailable

if TYPE_CHECKING:
    from services.learner.operator import Operator

PATIENCE = 30.0
"""Seconds that an order waits at the most before its turn comes: turns are shorter than one."""
MOST = 8
"""Orders that may wait at a time: people give them."""

_STANDS_BY = "this learner does not lead: give the order to the one that does, or again in a few seconds"

Outcome = TypeVar("Outcome")
Order = Callable[["Operator"], Outcome]
GiveUp = Callable[[], None]
"""Cancels an order whose turn has not come; does nothing to another."""


class Orders:
    """A queue that takes orders only while its `accepting` context lasts. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Order[Any], Future[Any]]] = deque()
        self._places = threading.Semaphore(MOST)
        self._open = False

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Take orders; those that still wait at the end are refused."""
        with self._lock:
            self._open = True
        try:
            yield
        finally:
            with self._lock:
                self._open = False
                refused, self._waiting = self._waiting, deque()
            for _, outcome in refused:
                if outcome.set_running_or_notify_cancel():
                    outcome.set_exception(NotNow(_STANDS_BY))

    def place(self, order: Order[Outcome], *, patience: float = PATIENCE, placed: Callable[[GiveUp], object] = lambda _: None) -> Outcome:
        """Wait until the other thread has carried `order` out. An order whose turn does not come in `patience` seconds never runs.

        `placed` is told how to give the order up while it waits.

        Raises:
            NotNow: this learner does not lead.
            Overloaded: as many orders wait as may.
            Unavailable: its turn did not come in time, or it was given up.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{MOST} orders wait already; nothing was done")
        try:
            return self._wait(order, Future(), patience, placed)
        finally:
            self._places.release()

    def _wait(self, order: Order[Outcome], outcome: Future[Outcome], patience: float, placed: Callable[[GiveUp], object]) -> Outcome:
        def give_up() -> None:
            outcome.cancel()

        with self._lock:
            if not self._open:
                raise NotNow(_STANDS_BY)
            self._waiting.append((order, outcome))
        placed(give_up)
        try:
            return outcome.result(patience)
        except CancelledError:
            self._forget(order, outcome)
            raise Unavailable("the caller is gone; nothing was done") from None
        except TimeoutError:
            if outcome.cancel():
                self._forget(order, outcome)
                raise Unavailable("the learner is too busy to take orders; nothing was done") from None
            return outcome.result()  # its turn came just now

    def _forget(self, order: Order[Any], outcome: Future[Any]) -> None:
        with self._lock, suppress(ValueError):  # its turn came, and it was passed over
            self._waiting.remove((order, outcome))

    def carry_out(self, operator: Operator) -> bool:
        """Carry out what waits; False where nothing did. Raises what ends the loop: LeaseLost, HeadConflict, Misconfigured."""
        done = False
        while (placed := self._next()) is not None:
            order, outcome = placed
            if outcome.set_running_or_notify_cancel():
                done = True
                _run(order, outcome, operator)
        return done

    def _next(self) -> tuple[Order[Any], Future[Any]] | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None


def _run(order: Order[Any], outcome: Future[Any], operator: Operator) -> None:
    """What is wrong with an order is told to who placed it, and no business of the loop's."""
    try:
        outcome.set_result(order(operator))
    except (InvalidInput, NotFound, NotNow, Unavailable) as error:
        outcome.set_exception(error)
    except BaseException:
        outcome.set_exception(NotNow(_STANDS_BY))
        raise
