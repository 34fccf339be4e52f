"""Forgetting somebody, on a real learner: what is erased, what stays, what a rebuild leaves, and every place where a crash may come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from liveloop import InvalidInput, NotFound, NotNow
from liveloop.askers import asker_hash
from liveloop.events.codec import encode
from liveloop.tasks.classification import Classification
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP, Event, Feedback, FeedbackEvent, Input, PredictionEvent
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.learner_pb2 import ForgetResponse, VersionState
from liveloop.weights.state import FlatState
from services.learner import erasure, forget
from services.learner.journal import By, Journal
from services.learner.micro_batch import MicroBatches
from services.learner.publication import Publication
from services.learner.redo import redo
from services.learner.tensors import TensorCache
from services.learner.trainer import Trainer
from tests.unit.test_joiner import prediction_id
from tests.unit.test_learner_loop import CPU
from tests.unit.test_learning import RECIPE
from tests.unit.test_operator import ANN, ASKER_KEY, Led

SECRET = "a film about my neighbour Zebulon"
ANN_ORDERS = By("ann", "asked to")
COMMENT = "because Zebulon said so"


class Users(Led):
    """A learner whose feedback comes from users with names."""

    def judge(self, user: str, signal: int, text: str = SECRET, *, asked_by: str = "") -> str:
        of = prediction_id(self.sent)
        self.sent += 1
        prediction = PredictionEvent(prediction_id=of, input=Input(text=text), label="positive", version=1)
        prediction.asker = asker_hash(ASKER_KEY, user=asked_by or user)
        prediction.created_at.GetCurrentTime()
        event = FeedbackEvent(feedback=Feedback(feedback_id="x", prediction_id=of, thumb=signal, comment=COMMENT))
        event.judge = asker_hash(ASKER_KEY, user=user)
        event.accepted_at.GetCurrentTime()
        self.log.append([Event(prediction=prediction), Event(feedback=event)])
        return of

    def learn_from(self, *users: str) -> int:
        """One step, its settle rows, and the version that is served then."""
        for user in users:
            self.judge(user, THUMB_UP if len(user) % 2 else THUMB_DOWN, text=f"{SECRET} {user}")
        self.turn_until(lambda: self.read() == self.sent and not self.parts.batches.waiting() and self.is_quiet())
        return self.head.current

    def read(self) -> int:
        """Predictions read so far; a forgotten user's are gone, their ids are not given again."""
        return int(self.parts.journal.db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'feedback'").fetchone()[0])

    def forget(self, user: str, *, rebuild: bool = False) -> ForgetResponse:
        return self.order(lambda client: client.forget(user=user, rebuild=rebuild, **ANN))

    def count(self, query: str) -> int:
        return int(self.parts.journal.db.execute(query).fetchone()[0])

    def first_step(self) -> int:
        return next(row.row for row in self.parts.journal.since(0) if row.kind == "train")

    def redone(self) -> bytes:
        """The digest of a redo from the tensors that a restart would take."""
        trainer = Trainer(Classification(self.bundle), self.bundle.layout, CPU)
        trainer.reset(self.publisher.state.bits)
        journal = self.parts.journal
        cached = self.parts.tensors.newest(lambda row: not journal.is_spoilt(row))
        redo(journal, trainer, self.parts.batches, self.parts.publication.load, cached=cached)
        return FlatState(trainer.bits.copy()).digest


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    found = Users(tmp_path)
    found.turn_until(found.is_quiet)
    yield found
    found.end()


def is_live_what_the_journal_says(users: Users) -> bool:
    last = users.parts.journal.last()
    live = FlatState(users.parts.trainer.bits.copy()).digest
    return last is not None and live == last.state_digest == users.redone() == users.publisher.state.digest


def on_disk(users: Users, what: str) -> bool:
    files = [users.folder / f"learner.db{suffix}" for suffix in ("", "-wal")]
    return any(what.encode() in file.read_bytes() for file in files if file.exists())


def twin(users: Users, without: set[int]) -> np.ndarray:
    """The served bits of a run whose journal never had some feedback: the same rows, seeds and order, in a journal of its own."""
    task = Classification(users.bundle)
    trainer = Trainer(task, users.bundle.layout, CPU)
    made: dict[int, np.ndarray] = {}
    for row in users.parts.journal.since(0):
        if row.kind == "init":
            trainer.reset(users.parts.publication.load(1))
        elif row.kind == "train":
            new, replayed = ([one for one in row.body[part] if one not in without] for part in ("new", "replayed"))
            batch = users.parts.batches.build(new, replayed, row.body["task"])
            trainer.apply(trainer.compute(batch, RECIPE, row.row), RECIPE)
        elif row.kind == "settle":
            trainer.settle()
        elif row.kind == "reset":
            trainer.reset(made[row.body["to"]])
        assert row.version is not None
        made[row.version] = trainer.bits.copy()
    return trainer.bits.copy()


def ids_of(users: Users, user: str) -> set[int]:
    query = "SELECT id FROM feedback WHERE judge = ?"
    return {one for (one,) in users.parts.journal.db.execute(query, (asker_hash(ASKER_KEY, user=user),))}


def test_everything_of_a_user_leaves_the_journal_and_its_file(users: Users):
    users.learn_from("ann")
    users.learn_from("bob")
    users.judge("cy", THUMB_UP, f"{SECRET} ann", asked_by="ann")  # cy judges what ann asked: the text is hers
    users.learn_from("dora")
    assert on_disk(users, f"{SECRET} ann")
    done = users.forget("ann")
    assert (done.predictions, done.feedback, done.rebuilt) == (2, 2, 0) and len(done.versions) == 2
    assert not on_disk(users, f"{SECRET} ann") and on_disk(users, f"{SECRET} bob")
    assert users.count("SELECT count(*) FROM feedback") == users.count("SELECT count(*) FROM predictions") == 2


def test_what_a_version_learnt_from_the_forgotten_is_only_counted(users: Users):
    users.learn_from("ann", "bob")
    (version,) = users.forget("ann").versions
    found = users.client.version(version)
    assert (found.version.feedback, found.erased, len(found.feedback)) == (2, 1, 1)
    with pytest.raises(NotFound):
        users.client.status(prediction_id(0))


def test_reading_the_log_again_does_not_bring_a_user_back(users: Users):
    users.learn_from("ann", "bob")
    users.forget("ann")
    with users.parts.journal.transaction() as db:
        db.execute("DELETE FROM positions")
    before = users.count("SELECT count(*) FROM feedback")
    users.judge("ann", THUMB_UP)
    users.judge("bob", THUMB_UP)
    users.turn_until(lambda: users.count("SELECT count(*) FROM feedback") > before)
    assert not ids_of(users, "ann") and not on_disk(users, f"{SECRET} ann")


def test_a_number_that_was_erased_is_given_to_no_other_feedback(users: Users):
    users.learn_from("ann")
    (erased,) = ids_of(users, "ann")
    users.forget("ann")
    users.learn_from("bob")
    assert min(ids_of(users, "bob")) > erased


def unusable(user: str) -> bytes:
    """A record that goes to the dead letters whole: its one event has a score that is none."""
    prediction = PredictionEvent(prediction_id=prediction_id(0), input=Input(text=f"{SECRET} {user}"), score=2.0)
    prediction.asker = asker_hash(ASKER_KEY, user=user)
    return encode([Event(prediction=prediction)])


def letters(users: Users) -> list[bytes]:
    return [content for (content,) in users.parts.journal.db.execute("SELECT content FROM dead_letters ORDER BY id")]


def test_dead_letters_that_hold_the_users_hash_are_erased_and_those_that_cannot_be_told_stay(users: Users):
    anns, bobs = unusable("ann"), unusable("bob")
    cut = anns[: anns.index(asker_hash(ASKER_KEY, user="ann")) + 3]
    users.log.append([], unreadable=[anns, bobs, cut])
    users.turn_until(lambda: letters(users) == [anns, bobs, cut])
    users.forget("ann")
    assert letters(users) == [bobs, cut]


def test_dead_letters_stay_where_the_erasure_is_not_committed(users: Users, monkeypatch: pytest.MonkeyPatch):
    users.log.append([], unreadable=[unusable("ann")])
    users.turn_until(lambda: letters(users) == [unusable("ann")])
    with monkeypatch.context() as patch:
        crash_at(patch, Journal, "note", after=True)
        with pytest.raises(Killed):
            users.loop._operator.forget(asker_hash(ASKER_KEY, user="ann"), ANN_ORDERS, rebuilds=False)
    users.crash()
    assert letters(users) == [unusable("ann")]
    users.forget("ann")
    assert not letters(users) and not on_disk(users, f"{SECRET} ann")


def test_a_record_of_a_forgotten_user_that_cannot_be_used_is_not_set_aside_later(users: Users):
    users.forget("ann")
    users.log.append([], unreadable=[unusable("ann"), unusable("bob")])
    users.turn_until(lambda: bool(letters(users)))
    assert letters(users) == [unusable("bob")] and not on_disk(users, f"{SECRET} ann")


def test_after_forgetting_the_weights_are_as_before_and_a_restart_redoes_them(users: Users):
    users.learn_from("ann")
    before = users.parts.trainer.bits.copy()
    users.forget("ann")
    assert np.array_equal(users.parts.trainer.bits, before) and is_live_what_the_journal_says(users)
    users.learn_from("bob")
    users.crash()
    assert is_live_what_the_journal_says(users) and not [row for row in users.parts.journal.since(0) if row.kind in ("reset", "rebase")]


def test_nothing_is_erased_while_the_tensors_cannot_be_saved(users: Users):
    users.learn_from("ann")
    (users.folder / "tensors").rename(users.folder / "elsewhere")
    with pytest.raises(NotNow, match="nothing was erased"):
        users.forget("ann")
    (users.folder / "elsewhere").rename(users.folder / "tensors")
    assert ids_of(users, "ann") and users.forget("ann").feedback == 1


def test_a_second_order_finds_nothing_left(users: Users):
    users.learn_from("ann")
    users.forget("ann")
    again = users.forget("ann")
    assert (again.predictions, again.feedback, list(again.versions)) == (0, 0, [])


def test_one_name_is_needed_and_one_only(users: Users):
    for names in ({}, {"user": "ann", "session_id": "s"}):
        with pytest.raises(InvalidInput):
            users.client.forget(**names, **ANN)


def test_a_session_is_not_the_user_of_that_name(users: Users):
    users.learn_from("ann")
    assert users.order(lambda client: client.forget(session_id="ann", **ANN)).feedback == 0


# Rebuilding


def test_a_rebuild_gives_the_weights_of_a_run_that_never_had_the_feedback(users: Users):
    users.learn_from("bob")
    users.learn_from("ann", "cy")
    users.learn_from("ann")  # a step whose micro-batch has nobody else's
    users.learn_from("dora")
    expected = twin(users, ids_of(users, "ann"))
    served = users.publisher.state.bits.copy()
    done = users.forget("ann", rebuild=True)
    assert np.array_equal(users.publisher.state.bits, expected) and not np.array_equal(served, expected)
    assert users.parts.journal.last().kind == "rebase" and done.rebuilt == users.head.current == users.head.blessed
    assert is_live_what_the_journal_says(users)


def test_a_rebuild_goes_back_to_versions_as_it_redid_them(users: Users):
    users.learn_from("ann")
    target = users.learn_from("bob")
    users.learn_from("cy")
    users.order(lambda client: client.rollback(target, **ANN))
    users.learn_from("dora")
    expected = twin(users, ids_of(users, "ann"))
    users.forget("ann", rebuild=True)
    assert np.array_equal(users.publisher.state.bits, expected) and is_live_what_the_journal_says(users)


def test_the_others_feedback_stays_trained_and_is_included_by_the_rebuilt_version(users: Users):
    users.learn_from("ann", "bob")
    done = users.forget("ann", rebuild=True)
    status = users.client.status(prediction_id(1))
    assert (status.state, status.version) == (State.FEEDBACK_STATE_TRAINED, done.rebuilt)
    assert [one.feedback.prediction_id for one in users.client.version(done.rebuilt).feedback] == [prediction_id(1)]


def test_after_a_rebuild_training_goes_on_and_survives_a_restart(users: Users):
    users.learn_from("ann")
    users.learn_from("bob")
    users.forget("ann", rebuild=True)
    users.learn_from("cy")
    assert is_live_what_the_journal_says(users)
    users.crash()
    assert is_live_what_the_journal_says(users)


def test_replaced_versions_leave_the_store_and_nothing_goes_back_to_them(users: Users):
    before = users.learn_from("bob")
    gone = users.learn_from("ann")
    users.order(lambda client: client.pin(gone, **ANN))
    made = users.forget("ann", rebuild=True).rebuilt
    users.turn_until(lambda: not any(users.publisher.keeps(version) for version in range(before + 1, made)))
    assert users.publisher.keeps(before) and users.publisher.keeps(made)
    for order in (users.client.rollback, users.client.pin, users.client.promote):
        with pytest.raises(NotNow, match="gone for good"):
            users.order(lambda _, order=order: order(gone, **ANN))
    assert users.versions()[gone].state == VersionState.VERSION_STATE_REPLACED
    assert ("replace", "ann") in [(one.decision, one.who) for one in users.client.version(gone).decisions]
    first = users.first_step() + 4
    assert not [row for row, _ in sets(users) if first <= row < users.parts.journal.last().row]


def sets(users: Users) -> list[tuple[int, Path]]:
    return [(int(path.stem), path) for path in (users.folder / "tensors").glob("*.safetensors")]


def test_a_user_whom_no_step_learnt_from_needs_no_rebuild(users: Users):
    current = users.learn_from("bob")
    assert users.forget("ann", rebuild=True).rebuilt == 0 and users.head.current == current


def test_a_rebuild_can_be_ordered_after_the_erasure(users: Users):
    users.learn_from("ann", "bob")
    expected = twin(users, ids_of(users, "ann"))
    users.forget("ann")
    done = users.forget("ann", rebuild=True)
    assert done.rebuilt == users.head.current and np.array_equal(users.publisher.state.bits, expected)
    assert users.forget("ann", rebuild=True).rebuilt == 0  # once is enough


def test_two_rebuilds_one_after_the_other_leave_both_out(users: Users):
    users.learn_from("ann", "bob")
    users.learn_from("cy")
    expected = twin(users, ids_of(users, "ann") | ids_of(users, "cy"))
    users.forget("cy", rebuild=True)
    users.forget("ann", rebuild=True)
    assert np.array_equal(users.publisher.state.bits, expected) and is_live_what_the_journal_says(users)


def test_a_rebuild_that_cannot_be_made_leaves_the_learner_as_it_was(users: Users, monkeypatch: pytest.MonkeyPatch):
    users.learn_from("ann")
    before = users.parts.trainer.bits.copy()

    def lost(*_: Any) -> np.ndarray:
        raise NotFound("version 1 cannot be read")

    for _, path in sets(users):
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Publication, "load", lost)
        with pytest.raises(NotNow, match="erased, but training cannot be redone"):
            users.forget("ann", rebuild=True)
    assert not ids_of(users, "ann") and np.array_equal(users.parts.trainer.bits, before)
    users.learn_from("bob")
    users.crash()
    assert is_live_what_the_journal_says(users)


def test_a_rebuild_that_cannot_be_redone_before_it_was_published_is_made_again(users: Users, monkeypatch: pytest.MonkeyPatch):
    """As after a crash and a start on another processor: what is served must not be gone on from."""
    users.learn_from("ann", "bob")
    expected = twin(users, ids_of(users, "ann"))
    with monkeypatch.context() as patch:
        crash_at(patch, Journal, "rebuilt", after=True)
        with pytest.raises(Killed):
            users.loop._operator.forget(asker_hash(ASKER_KEY, user="ann"), ANN_ORDERS, rebuilds=True)
    with users.parts.journal.transaction() as db:
        db.execute("UPDATE rows SET state_digest = x'00' WHERE kind = 'rebase'")
    users.crash()
    users.turn_until(users.is_quiet)
    assert np.array_equal(users.publisher.state.bits, expected)
    assert users.head.current == users.head.blessed == users.parts.journal.last().version


# A crash anywhere


class Killed(BaseException):
    """The process ends here."""


def crash_at(patch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool, call: int = 1) -> None:
    """The `call`-th call of a function is the process's last, before it does anything or after it did everything."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def crashing(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        answer = real(*arguments, **named)
        if calls == call:
            raise Killed
        return answer

    patch.setattr(owner, name, crashing)


PLACES = [
    (TensorCache, "save"),
    (Journal, "note"),
    (forget, "erase"),
    (erasure, "truncate"),
    (MicroBatches, "build"),
    (Journal, "rebuilt"),
    (TensorCache, "remove"),
    (Publication, "_publish"),
    (Publication, "let_go"),
    (Publication, "promote"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[f"{name}" for _, name in PLACES])
def test_a_crash_while_somebody_is_forgotten_is_made_good(
    users: Users, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool
):
    users.learn_from("bob")
    users.learn_from("ann", "cy")
    expected = twin(users, ids_of(users, "ann"))
    before = users.publisher.state.bits.copy()
    with monkeypatch.context() as patch:
        crash_at(patch, owner, name, after=after)
        with pytest.raises(Killed):
            users.loop._operator.forget(asker_hash(ASKER_KEY, user="ann"), ANN_ORDERS, rebuilds=True)
    users.crash()
    users.turn_until(users.is_quiet)
    assert is_live_what_the_journal_says(users)
    if ids_of(users, "ann"):  # the crash came before the order was carried out: nothing has happened
        assert np.array_equal(users.publisher.state.bits, before)
    else:
        assert np.array_equal(users.publisher.state.bits, expected) and not on_disk(users, f"{SECRET} ann")
        (rebuilt,) = (row.version for row in users.parts.journal.since(0) if row.is_rebuild)
        assert users.head.current == users.head.blessed == rebuilt
        assert not [link for link in users.head.chain if users.parts.journal.is_replaced(link.version)]
        assert not [row for row, _ in sets(users) if users.parts.journal.is_spoilt(row)]
