"""Consolidation: passes over stored feedback when the stream is quiet, on the learner's loop with a tiny model, turn by turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from liveloop.tasks.classification import Classification
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP, Event, FeedbackEvent, Retraction
from liveloop.v1.events_pb2 import Feedback as FeedbackMessage
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.consolidation import ENOUGH, PASSES
from services.learner.erasure import erase
from services.learner.journal import By
from services.learner.redo import redo
from services.learner.rows import Row
from services.learner.trainer import Trainer
from tests.unit.test_joiner import prediction_id
from tests.unit.test_learner_loop import Bench
from tests.unit.test_learning import RECIPE

STORED = ENOUGH + 6
ROWS = -(-STORED // 16)
"""Of one pass."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path, consolidate_after=0.0)
    yield found
    found.close()


def consolidating(bench: Bench) -> list[Row]:
    return [row for row in bench.parts.journal.since(0) if row.kind == "consolidate"]


def thumbs(bench: Bench, count: int = STORED) -> None:
    for number in range(count):
        bench.thumb(THUMB_DOWN if number % 3 == 0 else THUMB_UP)


def counts(bench: Bench) -> list[int]:
    return [count for (count,) in bench.parts.journal.db.execute("SELECT consolidations FROM feedback ORDER BY id")]


def until_quiet(bench: Bench) -> None:
    bench.turn_until(lambda: len(bench.states()) == bench.sent and bench.loop.is_quiet)


def until_rows(bench: Bench, rows: int) -> None:
    bench.turn_until(lambda: len(consolidating(bench)) >= rows)


def test_a_quiet_stream_is_consolidated_twice_each_time_at_a_rate_that_falls_to_nothing(bench: Bench):
    thumbs(bench)
    until_quiet(bench)
    rows = consolidating(bench)
    assert len(rows) == PASSES * ROWS
    for first in range(0, len(rows), ROWS):
        one_pass = rows[first : first + ROWS]
        assert sorted(one for row in one_pass for one in row.body["replayed"]) == list(range(1, STORED + 1))
        assert [row.body["rate"] for row in one_pass] == pytest.approx([(ROWS - done) / ROWS for done in range(ROWS)])
        assert all(len(row.body["task"]) == RECIPE.micro_batch and not row.body["new"] for row in one_pass)
    assert rows[0].body["replayed"] != rows[ROWS].body["replayed"]
    assert bench.states() == [State.FEEDBACK_STATE_TRAINED] * STORED


def test_a_pass_ends_in_settle_rows_and_is_served(bench: Bench):
    thumbs(bench)
    until_quiet(bench)
    kinds = [row.kind for row in bench.parts.journal.since(0)]
    assert kinds[-2:] == ["consolidate", "settle"]
    assert bench.head.current == bench.parts.journal.last().version
    assert np.array_equal(bench.publisher.state.bits, bench.parts.trainer.bits)


def test_what_was_consolidated_twice_is_not_a_third_time_whatever_comes_later(bench: Bench):
    for _ in range(2):
        thumbs(bench)
        until_quiet(bench)
    named = Counter(one for row in consolidating(bench) for one in row.body["replayed"])
    assert set(named.values()) == {PASSES} and len(named) == bench.sent == 2 * STORED
    assert counts(bench) == [PASSES] * bench.sent


def test_a_few_thumbs_are_not_drilled(bench: Bench):
    thumbs(bench, ENOUGH - 1)
    until_quiet(bench)
    assert not consolidating(bench)


def test_nothing_is_consolidated_before_the_stream_was_quiet_for_long_enough(tmp_path: Path):
    bench = Bench(tmp_path, consolidate_after=3600.0)
    thumbs(bench)
    until_quiet(bench)
    for _ in range(5):
        bench.loop.turn()
    assert not consolidating(bench)
    bench.loop._consolidation._quiet_since -= 3600.0
    until_rows(bench, 1)
    bench.close()


def test_new_feedback_ends_a_pass_and_the_next_quiet_begins_another(bench: Bench):
    thumbs(bench)
    until_rows(bench, 2)
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: bench.states()[-1:] == [State.FEEDBACK_STATE_TRAINED] and len(bench.states()) == bench.sent)
    interrupted = len(consolidating(bench))
    assert interrupted < ROWS and not bench.loop._consolidation.is_under_way
    until_quiet(bench)
    assert counts(bench).count(PASSES) >= STORED - ENOUGH and max(counts(bench)) == PASSES
    assert consolidating(bench)[interrupted].body["rate"] == 1.0


def test_held_out_and_retracted_feedback_is_never_consolidated(bench: Bench):
    thumbs(bench)
    bench.thumb(THUMB_UP, held_out=True)
    until_rows(bench, 1)
    pending = next(part[0] for part in bench.loop._consolidation._parts)
    of = prediction_id(pending - 1, held_out=False)
    retraction = FeedbackEvent(feedback=FeedbackMessage(feedback_id="r", prediction_id=of, retraction=Retraction()), judge=b"j")
    retraction.accepted_at.GetCurrentTime()
    bench.log.append([Event(feedback=retraction)])
    bench.turn_until(lambda: State.FEEDBACK_STATE_RETRACTED in bench.states())
    before = counts(bench)[pending - 1]
    bench.turn_until(lambda: bench.loop.is_quiet)
    found = counts(bench)
    assert found[pending - 1] == before < PASSES and found[STORED] == 0
    assert sorted(found)[3:] == [PASSES] * (STORED - 1)


def test_a_rollback_ends_a_pass_and_what_it_undid_stays_counted(bench: Bench):
    thumbs(bench)
    until_rows(bench, 2)
    before = consolidating(bench)[0].version - 1
    bench.loop._rollback.order(before, "ann", "it looked wrong")
    assert bench.states() == [State.FEEDBACK_STATE_TRAINED] * STORED  # no undone row introduced it
    until_quiet(bench)
    assert len(consolidating(bench)) == 2 and sum(counts(bench)) == 32
    bench.thumb(THUMB_UP)
    until_quiet(bench)
    assert len(consolidating(bench)) > 2 and max(counts(bench)) == PASSES


def test_a_crash_in_the_middle_of_a_pass_is_redone_to_the_bit_and_the_cap_holds(bench: Bench):
    thumbs(bench)
    until_rows(bench, 2)
    bits, version = bench.parts.trainer.bits.copy(), bench.head.current
    bench.crash()
    assert np.array_equal(bench.parts.trainer.bits, bits) and bench.head.current == version
    assert bench.parts.journal.last().kind == "consolidate"
    until_quiet(bench)
    named = Counter(one for row in consolidating(bench) for one in row.body["replayed"])
    assert max(named.values()) == PASSES and counts(bench) == [named[one] for one in range(1, STORED + 1)]


def test_consolidate_rows_are_redone_to_the_bit_from_the_beginning(bench: Bench):
    thumbs(bench)
    until_quiet(bench)
    journal, publisher = bench.parts.journal, bench.publisher
    other = Trainer(Classification(bench.bundle), bench.bundle.layout, torch.device("cpu"))
    last = redo(journal, other, bench.parts.batches, lambda version: publisher.load(version, journal.manifest(version)))
    assert last.version == bench.head.current and np.array_equal(other.bits, bench.parts.trainer.bits)


def test_a_refused_row_ends_the_pass_and_quarantines_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    thumbs(bench)
    until_rows(bench, 1)
    monkeypatch.setattr(bench.parts.guard, "refusal", lambda report: "the loss looks wrong")
    until_quiet(bench)
    for _ in range(5):
        bench.loop.turn()
    assert bench.states() == [State.FEEDBACK_STATE_TRAINED] * STORED
    assert len(consolidating(bench)) == 1 and bench.parts.journal.last().kind == "settle"


def test_an_erasure_knows_the_consolidate_rows_that_learnt_from_it(bench: Bench):
    thumbs(bench)
    until_quiet(bench)
    journal = bench.parts.journal
    db = journal.db
    first = consolidating(bench)[0]
    one = first.body["replayed"][0]
    db.execute("UPDATE rows SET body = json_set(body, '$.new', json('[]'), '$.replayed', json('[]')) WHERE kind = 'train'")
    db.execute("UPDATE feedback SET judge = x'616e6e' WHERE id = ?", (one,))
    assert erase(journal, RECIPE, b"ann", By("ann", "she asked"), rebuild=False).first == first.row


def test_an_example_that_a_consolidate_row_names_is_in_use_from_that_row_on(bench: Bench):
    thumbs(bench)
    until_quiet(bench)
    named: dict[int, int] = {}
    for row in bench.parts.journal.since(0):
        if row.kind in ("train", "consolidate"):
            named.update(dict.fromkeys([*row.body["new"], *row.body["replayed"]], row.row))
    found = dict(bench.parts.journal.db.execute("SELECT id, last_row FROM feedback").fetchall())
    assert found == named
