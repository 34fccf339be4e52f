"""Live accuracy: what people said of answers lately, by slice, and what learning gained them beside those held out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from liveloop.telemetry import gauge
from liveloop.v1.events_pb2 import (
    CHANNEL_BLESSED,
    CHANNEL_HOLDOUT,
    CHANNEL_UNSPECIFIED,
    SOURCE_EXPERT,
    SOURCE_UNSPECIFIED,
    THUMB_UP,
    Event,
    ExampleEvent,
    Feedback,
    FeedbackEvent,
    Input,
    PredictionEvent,
)
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner import housekeeping
from services.learner import joiner as joiner_module
from services.learner import live as module
from services.learner.joiner import Joiner
from services.learner.live import LiveAccuracy, Said, Slice, said, slices, uplift
from tests.unit.test_joiner import at, feedback, prediction_id
from tests.unit.test_learner_loop import Bench


class Judged:
    """A join store in which people judge answers."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript((Path(joiner_module.__file__).parent / "schema.sql").read_text())
        self.joiner = Joiner(self.db, labels=("negative", "positive"), window=100.0, default_reward=1.0)
        self.number = 0

    def answer(self, *, label: str = "negative", channel: int = CHANNEL_UNSPECIFIED, held_out: bool = False) -> str:
        of = prediction_id(self.number, held_out=held_out)
        self.number += 1
        event = PredictionEvent(prediction_id=of, input=Input(text="fine"), label=label, version=1, channel=channel, created_at=at(0))
        self.take(Event(prediction=event))
        return of

    def judge(self, signal: str, judge: bytes = b"a", *, source: int = SOURCE_UNSPECIFIED, **answer: int | str | bool) -> str:
        of = self.answer(**answer)
        event = feedback(of, "first", signal, 1.0, judge)
        event.feedback.feedback.source = source
        self.take(event)
        return of

    def take(self, event: Event) -> None:
        self.joiner.take(event)
        self.joiner.resolve()

    def slices(self) -> dict[str, Slice]:
        return {one.name: one for one in slices(said(self.db))}


@pytest.fixture
def judged() -> Judged:
    return Judged()


def test_answers_are_counted_by_channel_by_who_judged_and_by_what_was_answered(judged: Judged):
    judged.judge("up", b"a")
    judged.judge("down", b"b", label="positive", channel=CHANNEL_BLESSED)
    judged.judge("positive", b"c", label="positive", channel=CHANNEL_HOLDOUT, source=SOURCE_EXPERT, held_out=True)
    judged.judge("positive", b"c")
    found = {name: (one.judged, one.judges, one.accuracy.value) for name, one in judged.slices().items()}
    assert found == {
        "all": (4, 3, 0.5),
        "channel:blessed": (1, 1, 0.0),
        "channel:current": (2, 2, 0.5),
        "channel:holdout": (1, 1, 1.0),
        "label:negative": (2, 2, 0.5),
        "label:positive": (2, 2, 0.5),
        "source:expert": (1, 1, 1.0),
        "source:human": (3, 3, pytest.approx(1 / 3)),
    }


def test_a_judgement_counts_as_it_stands(judged: Judged):
    first, second, third = judged.judge("up"), judged.judge("up"), judged.judge("down")
    judged.take(feedback(first, "second", "down", 2.0))
    judged.take(feedback(second, "second", "retraction", 2.0))
    rating = FeedbackEvent(feedback=Feedback(feedback_id="second", prediction_id=third, rating=0.75), judge=b"a", accepted_at=at(2.0))
    judged.take(Event(feedback=rating))
    assert sorted(one.right for one in said(judged.db)) == [0.0, 0.75]


def test_silence_and_labelled_rows_are_nobodys_judgement_of_an_answer(judged: Judged):
    judged.answer()
    judged.take(Event(example=ExampleEvent(example_id="1", input=Input(text="fine"), label="negative", judge=b"a", accepted_at=at(0))))
    judged.joiner.expire(at(0).ToSeconds() + 1000.0)
    assert judged.db.execute("SELECT count(*) FROM feedback").fetchone() == (2,)
    assert said(judged.db) == []


def test_the_newest_of_each_slice_count(judged: Judged, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "WINDOW", 3)
    judged.judge("up", b"h", channel=CHANNEL_HOLDOUT)
    for signal in ("up", "up", "down", "down", "down"):
        judged.judge(signal)
    found = judged.slices()
    assert (found["all"].judged, found["all"].accuracy.value) == (3, 0.0)
    assert (found["channel:holdout"].judged, found["channel:holdout"].accuracy.value) == (1, 1.0)


def people(rng: np.random.Generator, channel: str, rate: float, count: int) -> list[Said]:
    """Judges with habits of their own, about `rate` of whose answers are right."""
    found = []
    for judge in range(count):
        habit = rng.beta(8 * rate, 8 * (1 - rate))
        found += [
            Said(channel, "human", "positive", f"{channel}{judge}".encode(), float(rng.random() < habit)) for _ in range(rng.integers(1, 9))
        ]
    return found


def mixed(rng: np.random.Generator, *parts: Sequence[Said]) -> list[Said]:
    everything = [one for part in parts for one in part]
    return [everything[place] for place in rng.permutation(len(everything))]


def test_the_uplift_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = uplift(mixed(rng, people(rng, "current", 0.8, 200), people(rng, "holdout", 0.7, 60)))
        assert found is not None
        covered += found.low <= 0.1 <= found.high
    assert 0.9 <= covered / 200 <= 0.99


def test_the_uplift_is_of_the_time_in_which_both_were_judged():
    rng = np.random.default_rng(1)
    now = mixed(rng, people(rng, "current", 0.9, 100), people(rng, "holdout", 0.5, 100))
    before = people(rng, "current", 0.1, 500)
    first = next(place for place, one in enumerate(now) if one.channel == "holdout")
    assert uplift([*before, *now[first:], *before]) == uplift(now)


def test_there_is_no_uplift_without_people_on_both_sides():
    rng = np.random.default_rng(2)
    assert uplift([]) is None
    assert uplift(people(rng, "current", 0.8, 50)) is None
    assert uplift(mixed(rng, people(rng, "current", 0.8, 50), people(rng, "holdout", 0.8, 9))) is None


def shown(name: str) -> dict[str, float]:
    return {",".join(sample.labels.values()): sample.value for metric in gauge(name).collect() for sample in metric.samples}


def test_the_metrics_follow_what_is_said_and_a_holdout_that_ended_leaves_none(judged: Judged):
    live = LiveAccuracy(judged.db)
    live.refresh()
    assert shown("live_accuracy") == {}
    for judge in range(20):
        judged.judge("up" if judge % 4 else "down", str(judge).encode())
        judged.judge("down", f"h{judge}".encode(), channel=CHANNEL_HOLDOUT)
    live.refresh()
    assert shown("live_accuracy")["channel:current"] == 0.75 and shown("live_judged")["channel:holdout"] == 20.0
    bounds = shown("holdout_uplift")
    assert bounds["low"] < bounds["mean"] < bounds["high"]
    assert bounds["mean"] == pytest.approx(15 / 19)  # the first judgement was before anybody who is held out judged
    judged.db.execute("DELETE FROM predictions WHERE channel = ?", (CHANNEL_HOLDOUT,))
    judged.judge("up", b"later")
    live.refresh()
    assert shown("holdout_uplift") == {} and "channel:holdout" not in shown("live_judged")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(housekeeping, "CHORES", 0.0)
    found = Bench(tmp_path)
    yield found
    found.close()


def test_the_learner_keeps_the_metrics(bench: Bench):
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: bench.states() == [State.FEEDBACK_STATE_TRAINED])
    bench.turn_until(lambda: shown("live_judged").get("all") == 1.0)
    assert shown("live_accuracy")["source:human"] == 1.0
