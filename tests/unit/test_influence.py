"""What a judge's word weighs beside everybody else's: the cap, trust, and what of it stands in the journal."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveloop.events import Page, Record
from liveloop.tasks import LabelledExample
from liveloop.v1.events_pb2 import (
    SOURCE_EXPERT,
    SOURCE_HUMAN,
    THUMB_DOWN,
    THUMB_UP,
    Correction,
    Event,
    ExampleEvent,
    Feedback,
    FeedbackEvent,
    Input,
    PredictionEvent,
)
from services.learner.influence import WINDOW, Influence, caps, trusts
from services.learner.joiner import Joiner, is_held_out
from services.learner.journal import Journal
from services.learner.micro_batch import MicroBatches
from services.learner.redo import redo
from tests.bounded import id_at
from tests.unit.test_joiner import START, at, prediction
from tests.unit.test_joiner import WINDOW as FEEDBACK_WINDOW
from tests.unit.test_learner_loop import Bench
from tests.unit.test_learning import RECIPE

LABELS = ("negative", "positive")
CROWD = [b"judge %d" % number for number in range(400)]


class Ledger:
    """A journal into which judges speak, and its micro-batches."""

    def __init__(self, folder: Path, *, cap: float = 0.01, trust: bool = False) -> None:
        self.journal = Journal(folder / "learner.db", holder="test")
        self.journal.db.execute("PRAGMA synchronous = OFF")
        assert self.journal.acquire(0)
        self.journal.change("init", RECIPE, {}, b"1", version=1)
        self.joiner = Joiner(self.journal.db, labels=LABELS, window=FEEDBACK_WINDOW, default_reward=0.75)
        influence = Influence(self.journal.db, cap=cap, trust=trust)
        self.batches = MicroBatches(self.journal.db, [LabelledExample("bad", 0)], LABELS, influence)
        self.said = 0
        self._ids = (one for number in count() if not is_held_out(one := id_at(START, number)))

    def say(self, judge: bytes, times: int = 1, *, thumb: int = THUMB_UP, source: int = SOURCE_HUMAN, label: str = "") -> None:
        events = []
        for _ in range(times):
            of = self.next_id()
            prediction = PredictionEvent(prediction_id=of, input=Input(text="a"), label="positive", version=1, score=0.8, created_at=at(0))
            item = Feedback(feedback_id="x", prediction_id=of, source=source)
            if label:
                item.correction.CopyFrom(Correction(label=label))
            else:
                item.thumb = thumb
            events += [Event(prediction=prediction), Event(feedback=FeedbackEvent(feedback=item, judge=judge, accepted_at=at(1)))]
        self.read(*events)

    def send_rows(self, judge: bytes, times: int) -> None:
        row = ExampleEvent(input=Input(text="a"), label="positive", judge=judge, accepted_at=at(1))
        for _ in range(times):
            row.example_id = self.next_id()
            self.read(Event(example=row))

    def stay_silent(self, times: int) -> None:
        """Predictions that nobody judges; their default rewards come when the window is over."""
        for _ in range(times):
            self.read(prediction(self.next_id()))
        self.joiner.expire(START + FEEDBACK_WINDOW + 2)

    def next_id(self) -> str:
        self.said += 1
        return next(self._ids)

    def read(self, *events: Event) -> None:
        self.journal.ingest(Page([Record(0, self.said, events)], frozenset()), self.joiner)

    def step(self, limit: int = 64, *, nominal: int = 1) -> tuple[float, ...]:
        """Learn from what waits; its weights, 1 where the batch has none."""
        batch = self.batches.choose(nominal=nominal, limit=limit, rng=random.Random(0))
        self.journal.train(batch, RECIPE, b"x", losses={})
        return batch.weights or (1.0,) * len(batch.feedback_examples)

    def learn_all(self) -> None:
        while self.batches.waiting():
            self.step()

    def of(self, column: str) -> list[float]:
        return [one for (one,) in self.journal.db.execute(f"SELECT {column} FROM feedback ORDER BY id")]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path)
    yield found
    found.journal.close()


# The cap


@given(st.lists(st.sampled_from(CROWD[:40]), max_size=300), st.floats(0.001, 1.0))
def test_no_judge_weighs_more_than_the_cap_and_nobody_is_dropped(judges: list[bytes], cap: float):
    found, counts = caps(judges, cap), Counter(judges)
    most = max(cap, 3 / max(1, len(counts))) * len(judges)
    assert found.keys() == counts.keys() and all(0.0 < one <= 1.0 for one in found.values())
    assert all(given * found[judge] <= most + 1e-9 for judge, given in counts.items())
    assert all(found[judge] == 1.0 for judge, given in counts.items() if given <= most)


@given(st.lists(st.sampled_from(CROWD[:3]), max_size=100))
def test_of_three_judges_or_fewer_nobody_is_capped(judges: list[bytes]):
    assert set(caps(judges, 0.01).values()) <= {1.0}


def test_one_in_a_crowd_weighs_a_hundredth():
    found = caps([*CROWD, *[b"loud"] * 600], 0.01)
    assert found[b"loud"] == pytest.approx(10 / 600) and found[CROWD[0]] == 1.0


# Trust


@given(st.lists(st.tuples(st.sampled_from(CROWD[:10]), st.floats(0, 1)), max_size=100))
def test_trust_is_a_tenth_at_the_least(said: list[tuple[bytes, float]]):
    assert all(0.1 <= one <= 1.0 for one in trusts(said).values())


def test_who_contradicts_a_model_that_is_right_loses_trust_and_a_newcomer_does_not():
    said = [(judge, 0.9) for judge in CROWD[:20] for _ in range(20)]
    found = trusts([*said, *[(b"liar", 0.1)] * 100, (b"newcomer", 0.1)])
    assert found[CROWD[0]] == pytest.approx(1.0, abs=0.01)
    assert found[b"liar"] == 0.1 and found[b"newcomer"] > 0.75


def test_where_the_model_is_wrong_nobody_loses_trust_for_saying_so():
    found = trusts([(judge, 0.3 + index / 100) for index, judge in enumerate(CROWD[:20]) for _ in range(20)])
    assert set(found.values()) == {1.0}


# In the journal


def test_a_lone_user_is_never_capped(ledger: Ledger):
    ledger.say(b"me", 300)
    while ledger.batches.waiting():
        assert set(ledger.step()) == {1.0}


def test_a_loud_judge_shrinks_and_the_row_says_by_how_much(ledger: Ledger):
    for judge in CROWD[:100]:
        ledger.say(judge)
    ledger.say(b"loud", 20)
    ledger.learn_all()
    ledger.say(b"loud")
    ledger.say(b"quiet")
    weights = ledger.step()
    most = 3 / 102 * 122
    assert weights[:2] == (pytest.approx(most / 21), 1.0)
    row = ledger.journal.last()
    assert row is not None and row.body["weights"] == list(weights)
    assert ledger.of("standing")[-2:] == list(weights[:2])


def test_what_is_used_again_never_weighs_more_than_the_first_time(ledger: Ledger):
    for judge in CROWD[:50]:
        ledger.say(judge)
    ledger.say(b"loud", 50)
    ledger.learn_all()
    loud = [index + 1 for index, standing in enumerate(ledger.of("standing")) if standing < 1.0]
    for judge in CROWD[:300]:
        ledger.say(judge, WINDOW // 250)
    ledger.learn_all()  # the loud one is out of the window by now
    first = ledger.of("standing")
    assert loud and ledger.batches.weights((), [loud[-1], 1]) == (first[loud[-1] - 1], 1.0)


def test_the_operators_own_word_is_neither_capped_nor_counted(ledger: Ledger):
    for judge in CROWD[:20]:
        ledger.say(judge)
    ledger.send_rows(b"backend", 200)
    ledger.say(b"professor", 40, source=SOURCE_EXPERT)
    ledger.stay_silent(50)
    ids = [one for (one,) in ledger.journal.db.execute("SELECT id FROM feedback")]
    assert len(ids) > 250 and ledger.batches.weights(ids, ()) == ()
    ledger.say(b"loud", 20)
    loud = [one for (one,) in ledger.journal.db.execute("SELECT id FROM feedback WHERE judge = ?", (b"loud",))]
    assert ledger.batches.weights(loud, ()) == pytest.approx([3 / 21 * 40 / 20] * 20)


def test_what_was_held_out_or_set_aside_counts_for_nobody(ledger: Ledger):
    for judge in CROWD[:10]:
        ledger.say(judge, 2)
    ledger.say(b"loud", 10)
    ledger.journal.quarantine(range(25, 31), "test")
    assert ledger.batches.weights([21], ()) == ()
    ledger.journal.give_back(range(25, 31))
    assert ledger.batches.weights([30], ()) == (pytest.approx(3 / 11 * 30 / 10),)


def test_agreement_is_what_the_answer_gave_to_what_was_said(ledger: Ledger):
    ledger.say(b"a", thumb=THUMB_UP)
    ledger.say(b"a", thumb=THUMB_DOWN)
    ledger.say(b"a", label="negative")
    ledger.say(b"a", label="positive")
    assert ledger.of("agreement") == [None] * 4
    ledger.step()
    assert ledger.of("agreement") == pytest.approx([0.8, 0.2, 0.2, 0.8])


def test_trust_weighs_from_what_was_learnt_before(tmp_path: Path):
    ledger = Ledger(tmp_path, cap=1.0, trust=True)
    for judge in CROWD[:20]:
        ledger.say(judge, 5)
    ledger.say(b"liar", 100, thumb=THUMB_DOWN)
    ledger.learn_all()
    ledger.say(b"liar", thumb=THUMB_DOWN)
    ledger.say(CROWD[0])
    weights = ledger.step()
    assert weights[0] == 0.1 and weights[1] > 0.95
    ledger.journal.close()


def test_a_step_of_capped_judges_is_redone_to_the_bit(tmp_path: Path):
    bench = Bench(tmp_path)
    bench.parts.batches._influence = Influence(bench.parts.journal.db, cap=0.01, trust=True)
    for judge in [*CROWD[:12], *[b"loud"] * 24]:
        bench.thumb(THUMB_DOWN, judge=judge)
    bench.turn_until(lambda: len(bench.states()) == bench.sent and not bench.parts.batches.waiting())
    bench.thumb(THUMB_UP, judge=b"loud")
    bench.turn_until(lambda: len(bench.states()) == bench.sent and not bench.parts.batches.waiting() and bench.is_quiet())
    weights = [row.body["weights"] for row in bench.parts.journal.since(0) if row.kind == "train"]
    assert all(min(one) < 1.0 for one in weights) and len(weights) >= 2
    bits = bench.parts.trainer.bits.copy()
    bench.parts.trainer.reset(bench.parts.publication.load(1))
    redo(bench.parts.journal, bench.parts.trainer, bench.parts.batches, bench.parts.publication.load)
    assert np.array_equal(bench.parts.trainer.bits, bits)
    bench.close()
