"""How many events a second pass from an outbox to Kafka, and from Kafka into the journal, beside plain kafka-python. Knows no pod."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from liveloop.errors import Misconfigured, Unavailable
from liveloop.events import EventLog, open_log
from liveloop.events.outbox import claim
from liveloop.events.relay import Relay
from liveloop.settings import Settings, load_settings
from liveloop.times import timestamp
from liveloop.v1.events_pb2 import THUMB_UP, Event, Feedback, FeedbackEvent, Input, PredictionEvent
from services.commands.bench import plain_kafka
from services.commands.bench.tables import progress
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from services.learner.reader import RECORDS

_GROUP = 25
"""Events of one group commit, as when a thousand come a second and forty commits fit in one."""
_TEXT = "It begins slowly, and then the second half repays every minute of that, with a lead who carries all of it. " * 2
_PATIENCE = 120.0
"""Seconds after which a side counts as stuck."""
_SIDES = ("relay", "kafka_python_produce", "join", "kafka_python_consume")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    events: int = 20_000
    rounds: int = 3
    predict_seconds: float = 0.0  # of asking beside a saturated relay, and as long beside an idle one; 0: not at all


def bench_events(settings: Settings, extent: Extent, *, kafka: str | None, as_json: bool, console: Console) -> None:
    """Measure on the broker at `kafka`, HOST:PORT, and print it. Raises Misconfigured without one, Unavailable."""
    if kafka is None:
        raise Misconfigured("liveloop bench events measures on a broker that runs: name it with --kafka HOST:PORT")
    found = measure(settings, extent, kafka, console)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("side", "events/s", "beside plain", "target", title="liveloop bench events")
    for side, plain, target in (("relay", "produce", 3.0), ("join", "consume", 1.5)):
        own, other = found[f"{side}_per_second"], found[f"kafka_python_{plain}_per_second"]
        table.add_row(side, f"{own:,.0f}", f"{own / other:.2f}x", f">= {target}x")
        table.add_row(f"kafka-python {plain}", f"{other:,.0f}", "", "")
    console.print(table)
    if ratio := found.get("predict_p99_ratio"):
        console.print(f"predict p99 beside a saturated relay / beside an idle one: {ratio:.2f} (target: <= 1.5)")


def measure(settings: Settings, extent: Extent, kafka: str, console: Console) -> dict[str, float]:
    """Events per second by side, of each the best of the rounds: the sides take turns, so that all see the same machine."""
    best = dict.fromkeys(_SIDES, float("inf"))
    with progress(console) as tick:
        for number in range(1, extent.rounds + 1):
            tick(f"round {number} of {extent.rounds}")
            for side, seconds in _round(settings, extent.events, kafka).items():
                best[side] = min(best[side], seconds)
        rates = {f"{side}_per_second": round(extent.events / seconds, 1) for side, seconds in best.items()}
        if extent.predict_seconds:
            from services.commands.bench.beside import p99_ratio  # it needs torch and the demo's model

            return {"predict_p99_ratio": p99_ratio(settings, kafka, extent.predict_seconds, console, tick), **rates}
        return rates


def _round(settings: Settings, count: int, kafka: str) -> dict[str, float]:
    """Seconds by side, each over as many events."""
    made = list(events(count))
    groups = [made[at : at + _GROUP] for at in range(0, count, _GROUP)]
    records = [event.SerializeToString() for event in made]
    own, plain = (f"liveloop-bench-{uuid.uuid4().hex}" for _ in range(2))
    try:
        with TemporaryDirectory(prefix="liveloop-bench-") as folder:
            relay = _relay(_log(settings, kafka, own), Path(folder), groups)
            with _log(settings, kafka, plain) as log:
                log.read({}, limit=1, timeout=0.0)  # makes the topic
                partitions = len(log.partitions)
            produce = plain_kafka.produce(kafka, plain, records, partitions)
            with _log(settings, kafka, own) as log:
                join = _join(log, Path(folder), count)
            consume = plain_kafka.consume(kafka, plain, count, partitions)
    finally:
        plain_kafka.remove(kafka, [own, plain])
    return dict(zip(_SIDES, (relay, produce, join, consume), strict=True))


def _log(settings: Settings, kafka: str, topic: str) -> EventLog:
    return open_log(load_settings(events_url=f"kafka://{kafka}/{topic}", topic_partitions=settings.topic_partitions))


def _relay(log: EventLog, folder: Path, groups: Sequence[Sequence[Event]]) -> float:
    """Seconds until an outbox that holds `groups` is empty."""
    log.read({}, limit=1, timeout=0.0)  # makes the topic
    outbox = claim(folder / "outbox", capacity=1 << 30, window=86_400.0)
    for group in groups:
        outbox.log.write(group)
    began = time.perf_counter()
    relay = Relay(outbox, log, orphans=list)
    try:
        relay.delivered(len(groups)).result(_PATIENCE)
        return time.perf_counter() - began
    finally:
        relay.close()


def _join(log: EventLog, folder: Path, count: int) -> float:
    """Seconds until a new journal has taken in `count` events from the beginning of `log`."""
    journal = Journal(folder / "learner.db", holder="bench")
    try:
        journal.acquire(0)
        joiner = Joiner(journal.db, labels=("negative", "positive"), window=86_400.0)
        began = last = time.perf_counter()
        while count > 0:
            journal.renew()
            page = log.read(journal.positions(), limit=RECORDS, timeout=0.1)
            journal.ingest(page, joiner)
            if taken := sum(len(record.events) for record in page.records):
                last = time.perf_counter()
                count -= taken
            elif time.perf_counter() - last > _PATIENCE:
                raise Unavailable(f"the topic lacks {count} events of those that were relayed")
        return time.perf_counter() - began
    finally:
        journal.close()


def events(count: int) -> Iterator[Event]:
    """Four predictions of about 300 bytes, then a thumb on the first of them, again and again."""
    now = time.time()
    judged = ""
    for number in range(count):
        if number % 5 == 4:
            said = Feedback(prediction_id=judged, feedback_id=str(uuid.uuid4()), thumb=THUMB_UP, created_at=timestamp(now))
            yield Event(feedback=FeedbackEvent(feedback=said, judge=uuid.uuid4().bytes, accepted_at=timestamp(now)))
            continue
        made = _prediction(now)
        judged = made.prediction_id if number % 5 == 0 else judged
        yield Event(prediction=made)


def _prediction(now: float) -> PredictionEvent:
    identity = str(uuid.UUID(int=(int(now * 1000) << 80) | (7 << 76) | (uuid.uuid4().int & ((1 << 76) - 1))))
    return PredictionEvent(
        prediction_id=identity,
        input=Input(text=_TEXT),
        label="positive",
        version=1,
        propensity=1.0,
        score=0.9,
        asker=uuid.uuid4().bytes,
        created_at=timestamp(now),
    )
