"""The relay beside answers: a backlog is moved a little at a time, and all of it all the same."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from event_samples import feedback

from liveloop.events.outbox import claim
from liveloop.events.relay import Relay
from liveloop.v1.events_pb2 import Event
from tests.servers import wait_until

ROWS = 40


class Behind:
    """A log that takes nothing until it is opened."""

    partitions = range(1)

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.pages: list[int] = []

    def append(self, events: Sequence[Event], *_: object) -> None:
        self.opened.wait(30)
        self.pages.append(len(events))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("beside_answers", [True, False])
def test_a_backlog_is_moved_whole_and_in_small_pieces_while_answers_are_given(tmp_path: Path, *, beside_answers: bool) -> None:
    outbox, behind = claim(tmp_path, capacity=1 << 30, window=60.0), Behind()
    outbox.log.write([feedback(0)])
    relay = Relay(outbox, behind, orphans=list)  # type: ignore[arg-type]  # what it calls
    wait_until(relay._thread.is_alive)
    for number in range(1, ROWS):
        outbox.log.write([feedback(number)])
    answering = threading.Event()

    def answer() -> None:
        while not answering.wait(0.02):
            relay.give_way()

    answers = threading.Thread(target=answer)
    if beside_answers:
        relay.give_way()
        answers.start()
    behind.opened.set()
    try:
        relay.delivered(ROWS).result(30)
    finally:
        answering.set()
        if beside_answers:
            answers.join()
        relay.close()
    assert sum(behind.pages) == ROWS
    later = behind.pages[1:]  # the first was under way before
    assert max(later) <= 4 if beside_answers else max(later) > 4
