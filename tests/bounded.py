"""A learner's tables under load, without a model: open predictions in a child process, and days that pass in seconds."""

from __future__ import annotations

import random
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from liveloop.events import Page, Record
from liveloop.tasks import LabelledExample
from liveloop.times import timestamp
from liveloop.v1.events_pb2 import (
    CHANNEL_BLESSED,
    CHANNEL_CURRENT,
    THUMB_UP,
    ChannelReport,
    Event,
    ExampleEvent,
    Feedback,
    FeedbackEvent,
    Input,
    PodReport,
    PredictionEvent,
)
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from services.learner.micro_batch import MicroBatches
from tests.unit.test_learning import RECIPE

START, DAY = 1_700_000_000.0, 86_400.0
LABELS = ("negative", "positive")
TEXT = "a text as people write them, of about a hundred bytes: it was good, but it took rather long to come to the point"
PAGE = 256
TABLES = ("predictions", "feedback", "work", "pods", "dead_letters")


def id_at(seconds: float, number: int) -> str:
    """A UUIDv7 of that time."""
    return str(uuid.UUID(int=int(seconds * 1000) << 80 | 7 << 76 | 2 << 62 | number))


def prediction(of: str, seconds: float) -> Event:
    return Event(
        prediction=PredictionEvent(
            prediction_id=of,
            input=Input(text=TEXT),
            label="positive",
            version=1,
            score=0.9,
            propensity=1.0,
            asker=b"a" * 32,
            created_at=timestamp(seconds),
        )
    )


def thumb(of: str, seconds: float) -> Event:
    item = Feedback(feedback_id=of, prediction_id=of, thumb=THUMB_UP, reasons=["helpful"], comment="thank you " * 20)
    return Event(feedback=FeedbackEvent(feedback=item, judge=b"j" * 32, accepted_at=timestamp(seconds)))


def resident_bytes() -> int:
    """Of this process, at its highest."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def open_predictions(folder: Path, count: int) -> int:
    """Bytes by which memory grew while `count` predictions were read, within one window, and twice looked through."""
    now = START
    journal = Journal(folder / "learner.db", holder="child", clock=lambda: now)
    journal.db.execute("PRAGMA synchronous = OFF")
    assert journal.acquire(0)
    joiner = Joiner(journal.db, labels=LABELS, window=DAY, default_reward=1.0)
    before = resident_bytes()
    for first in range(0, count, PAGE):
        now = START + first / count * DAY / 2
        events = [prediction(id_at(now, number), now) for number in range(first, min(count, first + PAGE))]
        journal.ingest(Page([Record(0, first, events)], frozenset({0})), joiner)
    for _ in range(2):
        journal.expire(joiner, [0], 30 * DAY)
    kept = journal.db.execute("SELECT count(*) FROM predictions").fetchone()[0]
    assert kept == count, f"{kept} of {count} predictions are open"
    return resident_bytes() - before


@dataclass(frozen=True, slots=True)
class Size:
    """Of a journal at the end of a day."""

    rows: dict[str, int]  # by table
    bytes: int  # of the file


class Month:
    """A learner that lives through days of traffic: judged and ignored predictions, labelled rows, orphans, pods that come and go."""

    def __init__(self, folder: Path, *, per_day: int, history: float) -> None:
        self.now = START
        self._path = folder / "learner.db"
        self.journal = Journal(self._path, holder="month", clock=lambda: self.now)
        self.journal.db.execute("PRAGMA synchronous = OFF")  # the machine stays on
        assert self.journal.acquire(0)
        self.journal.change("init", RECIPE, {}, b"1", version=1)
        self.joiner = Joiner(self.journal.db, labels=LABELS, window=DAY)
        self.batches = MicroBatches(self.journal.db, [LabelledExample("bad", 0)] * 8, LABELS)
        self._per_day, self._history = per_day, history
        self._rng, self._number, self._position = random.Random(0), 0, 0

    def days(self, count: int) -> Iterator[Size]:
        """The size at the end of each."""
        for _ in range(count):
            for _ in range(24):
                self._hour()
            yield self._size()

    def _hour(self) -> None:
        self.now += DAY / 24
        for _ in range(0, max(1, self._per_day // 24), PAGE):
            self._read([event for _ in range(min(PAGE, self._per_day // 24)) for event in self._visit()])
        self._read([self._report(), self._orphan(), self._example()])
        with self.journal.transaction() as db:
            db.execute("INSERT INTO dead_letters VALUES (NULL, 0, ?, 'broken', ?, ?)", (self._position, b"x" * 100, self.now))
        while self.batches.waiting():
            self.journal.renew()
            self.journal.train(self.batches.choose(nominal=8, limit=64, rng=self._rng), RECIPE, b"x", losses={})
        while self.journal.expire(self.joiner, [0], self._history):
            pass

    def _visit(self) -> list[Event]:
        """An answer that one in three judges, now or hours later."""
        of = self._id()
        found = [prediction(of, self.now)]
        return [*found, thumb(of, self.now + self._rng.random() * DAY * 1.1)] if self._rng.random() < 1 / 3 else found

    def _report(self) -> Event:
        channels = [ChannelReport(channel=one, version=1, answered=9) for one in (CHANNEL_BLESSED, CHANNEL_CURRENT)]
        stamp = timestamp(self.now)
        return Event(pod_report=PodReport(pod=self._id(), version=1, reported_at=stamp, flipped_at=stamp, channels=channels))

    def _orphan(self) -> Event:
        return thumb(self._id(), self.now)

    def _example(self) -> Event:
        stamp = timestamp(self.now)
        return Event(example=ExampleEvent(example_id=self._id(), input=Input(text=TEXT), label="negative", judge=b"j", accepted_at=stamp))

    def _id(self) -> str:
        self._number += 1
        return id_at(self.now, self._number)

    def _read(self, events: list[Event]) -> None:
        self._position += 1
        self.journal.ingest(Page([Record(0, self._position, events)], frozenset({0})), self.joiner)

    def _size(self) -> Size:
        count = "SELECT count(*) FROM {}"
        rows = {table: int(self.journal.db.execute(count.format(table)).fetchone()[0]) for table in TABLES}
        pages, page_size = (self.journal.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return Size(rows, pages * page_size)


if __name__ == "__main__":
    print(open_predictions(Path(sys.argv[1]), int(sys.argv[2])))
