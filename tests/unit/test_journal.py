"""The journal: one writer at a time, whole transactions, every feedback in one standing row."""

from __future__ import annotations

import random
import time
from contextlib import closing
from pathlib import Path

import pytest

from liveloop.errors import Misconfigured, NotFound
from liveloop.events import Page, Record
from liveloop.tasks import LabelledExample
from liveloop.v1.events_pb2 import CHANNEL_BLESSED, ChannelReport, Event, PodReport
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.learner_pb2 import VersionState
from services.learner import lease
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from services.learner.lease import LEASE_SECONDS, LeaseLost
from services.learner.micro_batch import MicroBatches
from services.learner.versions import Score
from services.learner.view import JournalView
from tests.servers import wait_until
from tests.unit.test_joiner import feedback, prediction, prediction_id
from tests.unit.test_learning import RECIPE

LOSSES = {"task_loss": 0.1, "feedback_loss": 0.2, "gradient_norm": 1.0}
LABELS = ("negative", "positive")


class Clock:
    """Unix seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def new_journal(folder: Path, holder: str = "one", clock: Clock | None = None) -> Journal:
    return Journal(folder / "learner.db", holder=holder, clock=clock or Clock())


def with_thumbs(journal: Journal, count: int) -> tuple[Joiner, MicroBatches]:
    """A journal that has read `count` thumbs up on as many predictions."""
    joiner = Joiner(journal.db, labels=LABELS, window=1000.0)
    ids = [prediction_id(number) for number in range(count)]
    events = [event for number, one in enumerate(ids) for event in (prediction(one), feedback(one, str(number), "up", 1.0))]
    journal.ingest(Page([Record(0, 7, events)], frozenset({0})), joiner)
    return joiner, MicroBatches(journal.db, [LabelledExample("bad", 0)] * 20, LABELS)


def test_only_one_holder_has_the_lease_until_it_falls_silent(tmp_path: Path):
    clock = Clock()
    first, second = new_journal(tmp_path, "one", clock), new_journal(tmp_path, "two", clock)
    assert first.acquire(0) and not second.acquire(0)
    clock.now += LEASE_SECONDS + 1
    assert second.acquire(0) and second.epoch == first.epoch + 1


def test_a_holder_that_lost_the_lease_changes_nothing(tmp_path: Path):
    clock = Clock()
    first, second = new_journal(tmp_path, "one", clock), new_journal(tmp_path, "two", clock)
    first.acquire(0)
    clock.now += LEASE_SECONDS + 1
    second.acquire(0)
    with pytest.raises(LeaseLost):
        first.change("settle", RECIPE, {}, b"x")
    with pytest.raises(LeaseLost):
        with_thumbs(first, 1)
    assert second.last() is None and second.positions() == {}


def test_a_held_lease_outlasts_what_takes_long_but_not_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.4)
    clock = Clock()
    holder, other = new_journal(tmp_path, "one", clock), new_journal(tmp_path, "two", clock)
    assert holder.acquire(0)
    with holder.held():
        for _ in range(3):
            clock.now += 0.3
            wait_until(lambda: deadline(other) == clock.now + 0.4)
            assert not other.acquire(0)
        clock.now += 3600.0
        assert other.acquire(0)
        with pytest.raises(LeaseLost):
            holder.renew()
    other.renew()


def test_a_holder_that_was_stopped_in_a_transaction_is_waited_for(tmp_path: Path):
    clock = Clock()
    holder, other = new_journal(tmp_path, "one", clock), new_journal(tmp_path, "two", clock)
    other.db.execute("PRAGMA busy_timeout = 50")
    assert holder.acquire(0)
    with holder.transaction():
        clock.now += LEASE_SECONDS + 1
        assert not other.acquire(0)
    assert other.acquire(0)


def deadline(journal: Journal) -> float:
    return float(journal.db.execute("SELECT deadline FROM lease").fetchone()[0])


def test_a_released_lease_is_free_at_once(tmp_path: Path):
    first, second = new_journal(tmp_path, "one"), new_journal(tmp_path, "two")
    first.acquire(0)
    first.release()
    with pytest.raises(LeaseLost):
        first.note("refuse", RECIPE)  # nor does a thread that renews it take it back
    assert second.acquire(0)


def test_an_epoch_is_above_every_earlier_one_and_the_stores(tmp_path: Path):
    journal = new_journal(tmp_path)
    assert journal.acquire(41) and journal.epoch == 42


def test_events_and_positions_move_together(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    with_thumbs(journal, 3)
    assert journal.positions() == {0: 8}
    assert journal.db.execute("SELECT count(*) FROM feedback").fetchone() == (3,)


def test_a_micro_batch_takes_what_waits_and_fills_up_with_replays_used_at_most_twice(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    _, batches = with_thumbs(journal, 3)
    first = batches.choose(nominal=8, limit=64, rng=random.Random(0))
    assert len(first.new) == 3 and first.replayed == () and len(first.task) == 8
    journal.train(first, RECIPE, b"a", losses=LOSSES)
    again = batches.choose(nominal=8, limit=64, rng=random.Random(0))
    assert again.new == () and set(again.replayed) <= set(first.new) and again.replayed
    journal.train(again, RECIPE, b"b", losses=LOSSES)
    uses = dict(journal.db.execute("SELECT id, uses FROM feedback").fetchall())
    assert all(uses[one] == 2 for one in again.replayed) and max(uses.values()) == 2
    assert not set(batches.choose(nominal=8, limit=64, rng=random.Random(0)).replayed) & set(again.replayed)


def test_a_crowd_grows_the_micro_batch_up_to_its_limit(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    _, batches = with_thumbs(journal, 20)
    assert len(batches.choose(nominal=8, limit=16, rng=random.Random(0)).new) == 16


def test_a_row_names_its_feedback_and_the_feedback_its_row(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    journal.change("init", RECIPE, {}, b"v1", version=1)
    _, batches = with_thumbs(journal, 2)
    batch = batches.choose(nominal=8, limit=64, rng=random.Random(0))
    row = journal.train(batch, RECIPE, b"v2", losses=LOSSES)
    assert row.version == 2 and journal.recipe(row.recipe) == RECIPE
    assert journal.db.execute("SELECT DISTINCT state, row, version FROM feedback").fetchall() == [
        (State.FEEDBACK_STATE_TRAINED, row.row, 2)
    ]
    assert len(journal.included(1, 2, 9)) == 2 and journal.included(2, 9, 9) == [] and len(journal.included(1, 2, 1)) == 1
    assert batches.build(row.body["new"], row.body["replayed"], row.body["task"]) == batch


def test_a_reset_quarantines_the_feedback_of_the_rows_it_undoes(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    journal.change("init", RECIPE, {}, b"v1", version=1)
    _, batches = with_thumbs(journal, 2)
    journal.train(batches.choose(nominal=8, limit=1, rng=random.Random(0)), RECIPE, b"v2", losses=LOSSES)
    journal.train(batches.choose(nominal=8, limit=1, rng=random.Random(0)), RECIPE, b"v3", losses=LOSSES)
    row = journal.reset(2, RECIPE, b"v2", who="guard", why="it went wrong")
    states = [state for (state,) in journal.db.execute("SELECT state FROM feedback ORDER BY id")]
    assert states == [State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_QUARANTINED]
    assert row.body["quarantined"] == 1
    assert row.version == 4 and batches.choose(nominal=8, limit=9, rng=random.Random(0)).new == ()


def test_refused_feedback_is_given_back_only_once(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    _, batches = with_thumbs(journal, 1)
    (one,) = batches.choose(nominal=8, limit=9, rng=random.Random(0)).new
    for expected in ((one,), ()):
        journal.quarantine([one], "refused")
        journal.give_back([one])
        assert batches.choose(nominal=8, limit=9, rng=random.Random(0)).new == expected


def test_a_version_that_was_held_back_and_undone_is_shown_as_rolled_back(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    journal.change("init", RECIPE, {}, b"v1", version=1)
    journal.change("settle", RECIPE, {}, b"v2")
    journal.reset(1, RECIPE, b"v1", "worse", who="guard")
    found = [version.state for version in JournalView(tmp_path / "learner.db").versions(2)]
    assert found == [VersionState.VERSION_STATE_HELD, VersionState.VERSION_STATE_ROLLED_BACK]


def test_a_pause_outlives_a_restart_until_it_is_resumed(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    assert not journal.is_paused()
    journal.pause(RECIPE, who="ann", why="holidays")
    journal.note("refuse", RECIPE)
    assert journal.is_paused() and new_journal(tmp_path).is_paused()
    journal.resume(RECIPE, who="ann", why="back")
    assert not journal.is_paused()


def versions_blessed_at(journal: Journal, clock: Clock, *hours: float) -> None:
    """Versions 1, 2, ..., each blessed at that many hours after the clock's first."""
    start = clock.now
    for version, hour in enumerate(hours, start=1):
        clock.now = start + 3600 * hour
        journal.change("settle", RECIPE, {}, b"", version=version)
        journal.published(version, parent=version - 1, manifest=f"m{version}", patch_bytes=0)
        journal.blessed(version)


def test_the_anchor_is_the_first_version_blessed_in_the_hour_of_the_one_blessed_an_hour_ago(tmp_path: Path):
    clock = Clock()
    clock.now = 3600 * 100.0
    journal = new_journal(tmp_path, clock=clock)
    journal.acquire(0)
    versions_blessed_at(journal, clock, 0.1, 0.5, 0.9, 1.2, 1.8, 2.5)
    clock.now = 3600 * 102.6
    assert [journal.anchor(3600 * hours) for hours in (2.6, 1.65, 1.1, 0.0)] == [None, 1, 4, 6]
    assert {4, 6} <= set(journal.kept(1, 1e12)) and not {1, 2, 3, 5} & set(journal.kept(1, 1e12))


def test_a_reset_leaves_no_older_version_to_compare_with(tmp_path: Path):
    clock = Clock()
    journal = new_journal(tmp_path, clock=clock)
    journal.acquire(0)
    versions_blessed_at(journal, clock, 0.0, 0.5)
    row = journal.reset(1, RECIPE, b"", who="guard", why="worse")
    assert journal.anchor(0.0) is None
    journal.published(row.version or 0, parent=2, manifest="m", patch_bytes=0)
    journal.blessed(row.version or 0)
    assert journal.anchor(0.0) == row.version


def test_resets_in_a_row_end_with_a_pass_a_blessing_or_a_resume(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    versions_blessed_at(journal, Clock(), 0.0)

    def reset(who: str) -> None:
        journal.reset(1, RECIPE, b"", who=who, why="worse")

    for who in ("guard", "ann", "guard"):
        reset(who)
    assert journal.resets_in_a_row("guard") == 2
    journal.resume(RECIPE, who="ann", why="")
    assert journal.resets_in_a_row("guard") == 0
    reset("guard")
    row = journal.change("settle", RECIPE, {}, b"")
    assert journal.resets_in_a_row("guard") == 1
    journal.published(row.version or 0, parent=1, manifest="m", patch_bytes=0)
    journal.blessed(row.version or 0)
    assert journal.resets_in_a_row("guard") == 0
    reset("guard")
    candidate = journal.change("settle", RECIPE, {}, b"").version or 0  # with a canary its users have the last word
    journal.evaluated(candidate, {}, passed=False)
    assert journal.resets_in_a_row("guard") == 1
    journal.evaluated(candidate, {}, passed=True)
    assert journal.resets_in_a_row("guard") == 0


def test_others_read_what_became_of_a_feedback_and_of_versions(tmp_path: Path):
    journal, view = new_journal(tmp_path), JournalView(tmp_path / "learner.db")
    journal.acquire(0)
    journal.change("init", RECIPE, {}, b"v1", version=1)
    journal.published(1, parent=0, manifest="m1", patch_bytes=0)
    with pytest.raises(NotFound):
        view.feedback(prediction_id(0), "0")
    _, batches = with_thumbs(journal, 1)
    assert view.feedback(prediction_id(0), "").state == State.FEEDBACK_STATE_JOINED
    journal.train(batches.choose(nominal=8, limit=9, rng=random.Random(0)), RECIPE, b"v2", losses=LOSSES)
    assert view.feedback(prediction_id(0), "0").version == 2
    newest, first = view.versions(10)
    assert (newest.version, newest.held, newest.feedback, first.current) == (2, True, 1, True)
    journal.published(2, parent=1, manifest="m2", patch_bytes=9)
    assert [version.current for version in view.versions(10)] == [True, False]


def test_versions_say_where_they_stand_how_they_did_and_who_serves_them(tmp_path: Path):
    journal, view = new_journal(tmp_path), JournalView(tmp_path / "learner.db", canary_share=0.1)
    journal.acquire(0)
    journal.change("init", RECIPE, {}, b"v1", version=1)
    for version in (2, 3):
        journal.change("settle", RECIPE, {}, b"x", version=version)
    journal.reset(2, RECIPE, b"x", "worse", who="guard")
    journal.change("settle", RECIPE, {}, b"x")
    for version in range(1, 5):
        journal.published(version, parent=version - 1, manifest=f"m{version}", patch_bytes=9)
    journal.blessed(1)
    journal.blessed(3)
    journal.pin(2)
    journal.evaluated(4, {"task": Score(0.75, 40), "long": Score(0.5, 2)}, passed=True)
    joiner, now = Joiner(journal.db, labels=LABELS, window=1000.0), time.time()
    for pod, blessed in (("a", 1), ("b", 2)):
        report = PodReport(pod=pod, version=4, channels=[ChannelReport(channel=CHANNEL_BLESSED, version=blessed)])
        report.reported_at.FromMicroseconds(round(now * 1e6))
        joiner.take(Event(pod_report=report))
    found = view.versions(10)
    names = [VersionState.Name(version.state).removeprefix("VERSION_STATE_").lower() for version in found]
    assert names == ["held", "canary", "rolled_back", "published", "blessed"]
    assert [version.pods for version in found] == [0, 2, 0, 1, 1]
    assert [version.pinned for version in found] == [False, False, False, True, False]
    assert [(score.split, score.accuracy, score.rows) for score in found[1].scores] == [("task", 0.75, 40), ("long", 0.5, 2)]
    assert found[1].accuracy == 0.75 and not found[0].HasField("accuracy")


def test_a_full_disk_is_one_sentence_and_changes_nothing(tmp_path: Path):
    journal = new_journal(tmp_path)
    journal.acquire(0)
    pages = journal.db.execute("PRAGMA page_count").fetchone()[0]
    journal.db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Misconfigured, match="free some disk space"):
        for _ in range(1000):
            journal.note("refuse", RECIPE, why="x" * 1000)
    assert journal.db.in_transaction is False


def test_a_journal_of_another_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with closing(new_journal(tmp_path)) as journal:
        journal.db.execute("PRAGMA user_version = 99")

    with pytest.raises(Misconfigured, match="has format 99"):
        new_journal(tmp_path)


def test_a_journal_from_before_formats_were_numbered_is_refused(tmp_path: Path) -> None:
    with closing(new_journal(tmp_path)) as journal:
        journal.db.execute("PRAGMA user_version = 0")

    with pytest.raises(Misconfigured, match="has format 0"):
        new_journal(tmp_path)
