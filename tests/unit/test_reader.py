"""A log that lost what was not read yet: loud, nothing passed over in silence, and an operator's word to go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from liveloop import NotNow
from liveloop.events.sqlite import SqliteLog
from liveloop.telemetry import gauge
from liveloop.v1.events_pb2 import THUMB_UP
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner import reader as reader_module
from tests.unit.test_operator import ANN, Led


@pytest.fixture
def led(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Led]:
    monkeypatch.setattr(reader_module, "_LOOK_AGAIN", 0.0)
    led = Led(tmp_path)
    yield led
    led.close()


def remove(led: Led, *, before: int) -> None:
    led.log._database.write(lambda connection: connection.execute("DELETE FROM batch WHERE position < ?", (before,)))


def test_records_removed_unread_stop_reading_and_not_training(led: Led) -> None:
    led.thumb(THUMB_UP)
    led.turn_until(lambda: len(led.states()) == 1)
    for _ in range(3):
        led.thumb(THUMB_UP)
    remove(led, before=4)  # the second and third thumb: the first was read as position 1

    led.turn_until(lambda: gauge("learner_gap")._value.get() == 1)
    led.turn_until(lambda: led.states() == [State.FEEDBACK_STATE_TRAINED])  # what was read before is learnt
    for _ in range(5):
        led.loop.turn()
    assert len(led.states()) == 1  # the last thumb is there, and is not read over the gap


def test_an_operator_accepts_a_gap_and_the_journal_says_so(led: Led) -> None:
    led.thumb(THUMB_UP)
    led.turn_until(lambda: len(led.states()) == 1)
    for _ in range(3):
        led.thumb(THUMB_UP)
    remove(led, before=4)
    led.turn_until(lambda: gauge("learner_gap")._value.get() == 1)
    led.crash()  # and it is found again after a restart
    led.turn_until(lambda: gauge("learner_gap")._value.get() == 1)

    gaps = led.order(lambda client: client.accept_gap(**ANN))
    assert [(gap.partition, getattr(gap, "from"), gap.to) for gap in gaps] == [(0, 2, 4)]
    led.turn_until(lambda: led.states() == [State.FEEDBACK_STATE_TRAINED] * 2)
    assert gauge("learner_gap")._value.get() == 0
    notes = led.parts.journal.db.execute("SELECT body FROM rows WHERE json_extract(body, '$.decision') = 'accept-gap'").fetchall()
    assert len(notes) == 1
    assert '"from": 2, "to": 4' in notes[0][0]
    assert ANN["why"] in notes[0][0]
    with pytest.raises(NotNow):
        led.order(lambda client: client.accept_gap(**ANN))


def test_a_log_that_is_restored_needs_no_word(led: Led, tmp_path: Path) -> None:
    led.thumb(THUMB_UP)
    led.turn_until(lambda: len(led.states()) == 1)
    whole = led.loop._reader._log
    with SqliteLog(tmp_path / "another.db") as empty:
        led.loop._reader._log = empty
        led.turn_until(lambda: gauge("learner_gap")._value.get() == 1)
        led.loop._reader._log = whole
    led.turn_until(lambda: gauge("learner_gap")._value.get() == 0)
