"""The proof of a version, beside a learner that goes on: equal, unequal, or not possible any more."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from liveloop import NotFound
from liveloop.errors import Misconfigured
from liveloop.tasks.classification import Classification
from liveloop.weights.directory import DirectoryStore
from services.learner.micro_batch import MicroBatches
from services.learner.reproduce import KeptVersions, Outcome, Proof, ReadJournal, other_ground, reproduce, verdict
from services.learner.trainer import Trainer
from tests.unit.test_forget import ANN, Users
from tests.unit.test_learner_loop import CPU, TASK_ROWS
from tests.unit.test_learning import RECIPE


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    found = Users(tmp_path)
    found.turn_until(found.is_quiet)
    yield found
    found.end()


def proof(users: Users, version: int) -> Proof:
    journal, task = ReadJournal(users.folder / "learner.db"), Classification(users.bundle)
    layout = users.bundle.layout
    kept = KeptVersions(DirectoryStore(users.folder / "weights"), users.key.public_key(), journal, layout.total)
    batches = MicroBatches(journal.db, TASK_ROWS, task.labels)
    return reproduce(journal, Trainer(task, layout, CPU), batches, kept.load, version=version, tensors=users.folder / "tensors")


def contents(folder: Path) -> dict[Path, bytes]:
    """All files but the index that SQLite's readers share."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix not in (".db-shm", ".db-wal")}


def test_every_version_is_reproduced_and_nothing_is_written(users: Users):
    users.learn_from("ann")
    target = users.learn_from("bob")
    users.order(lambda client: client.rollback(target - 4, **ANN))
    newest = users.learn_from("cy")
    users.loop.save()
    before = contents(users.folder)
    for version in (1, 2, target, target + 1, newest):
        found = proof(users, version)
        assert found.outcome is Outcome.EQUAL and verdict(version, found, "").startswith("equal")
    assert contents(users.folder) == before


def test_the_proof_begins_at_the_newest_tensors_before_the_version(users: Users):
    users.learn_from("ann")
    users.loop.save()
    version = users.learn_from("bob")
    found = proof(users, version)
    assert found.outcome is Outcome.EQUAL and found.after == users.parts.journal.making(version).row - 2 and found.rows == 3


def test_another_state_is_told_with_the_row_where_it_begins(users: Users):
    version = users.learn_from("ann")
    with users.parts.journal.transaction() as db:
        db.execute("UPDATE predictions SET text = 'another text'")
    found = proof(users, version)
    assert found.outcome is Outcome.UNEQUAL and found.differs is not None
    assert (found.differs.kind, found.differs.version) == ("train", version - 1)
    assert f"(version {version - 1}, train)" in verdict(version, found, "torch was 1 and is 2")


def test_a_version_whose_examples_were_erased_is_said_to_be_beyond_proof(users: Users):
    version = users.learn_from("ann", "bob")
    users.learn_from("cy")
    users.forget("ann")
    found = proof(users, version)
    assert (found.outcome, found.erased) == (Outcome.ERASED, 1)
    assert verdict(version, found, "").startswith("1 examples it learnt from were erased since")
    later = users.learn_from("dora")
    assert proof(users, later).outcome is Outcome.EQUAL  # from the tensors saved before the erasure


def test_a_rebuilt_version_is_reproduced_and_one_it_replaced_is_not(users: Users):
    users.learn_from("bob")
    gone = users.learn_from("ann", "cy")
    rebuilt = users.forget("ann", rebuild=True).rebuilt
    later = users.learn_from("dora")
    assert [proof(users, version).outcome for version in (gone, rebuilt, later)] == [Outcome.ERASED, Outcome.EQUAL, Outcome.EQUAL]


def test_what_is_different_here_is_named():
    assert other_ground(RECIPE, RECIPE) == ""
    made, here = replace(RECIPE, torch="8"), replace(RECIPE, torch="9")
    assert other_ground(made, here) == "torch was 8 and is 9"


def test_a_version_that_never_was_and_a_journal_of_another_format_are_refused(users: Users, tmp_path: Path):
    with pytest.raises(NotFound, match="no version 99"):
        proof(users, 99)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("PRAGMA user_version = 1")
    other.close()
    with pytest.raises(Misconfigured, match="format 1"):
        ReadJournal(tmp_path / "other.db")
