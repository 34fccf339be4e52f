"""A learner that another one overtook while it was stopped: wherever it wakes up, it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from liveloop.errors import HeadConflict
from liveloop.v1.events_pb2 import THUMB_UP
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from services.learner.__main__ import _holder
from services.learner.journal import Journal
from services.learner.lease import LeaseLost
from tests.unit.test_learner_loop import Bench, bench

__all__ = ["bench"]

Overtake = Callable[[], Publisher]


@pytest.fixture
def overtake(bench: Bench) -> Iterator[Overtake]:
    """Does what another process does once the bench's lease has run out."""
    with ExitStack() as opened:

        def do() -> Publisher:
            other = Journal(bench.folder / "learner.db", holder="other")
            opened.callback(other.close)
            other.db.execute("UPDATE lease SET deadline = 0")
            assert other.acquire(0)
            return opened.enter_context(Publisher(DirectoryStore(bench.folder / "weights"), bench.key, epoch=other.epoch))

        yield do


def everything(bench: Bench) -> dict[str, Any]:
    """All that a learner writes: the journal's tables, the saved tensors, the store."""
    db, store = bench.parts.journal.db, DirectoryStore(bench.folder / "weights")
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found: dict[str, Any] = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    bench.parts.tensors.close()
    return found | {"tensors": sorted((bench.folder / "tensors").iterdir()), "head": store.head(), "blobs": set(store.names())}


def test_it_writes_no_row_and_moves_no_position(bench: Bench, overtake: Overtake) -> None:
    bench.turn_until(bench.is_quiet)
    overtake()
    bench.thumb(THUMB_UP)
    before = everything(bench)
    journal = bench.parts.journal
    with pytest.raises(LeaseLost):
        journal.ingest(bench.log.read(journal.positions(), limit=10, timeout=1.0), bench.parts.joiner)
    with pytest.raises(LeaseLost):
        bench.turn_until(lambda: False)
    assert everything(bench) == before


def test_it_publishes_no_version_though_it_wrote_the_row_in_time(
    bench: Bench,
    overtake: Overtake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench.turn_until(bench.is_quiet)
    bench.thumb(THUMB_UP)
    train, successors = bench.parts.journal.train, []

    def train_and_stop(*arguments: Any, **named: Any) -> Any:
        row = train(*arguments, **named)
        successors.append(overtake())
        return row

    monkeypatch.setattr(bench.parts.journal, "train", train_and_stop)
    with pytest.raises(HeadConflict):
        bench.turn_until(lambda: False)
    head = successors[0].head
    assert (head.epoch, head.current) == (successors[0].head.epoch, 1)
    assert DirectoryStore(bench.folder / "weights").head() is not None
    assert Publisher(DirectoryStore(bench.folder / "weights"), bench.key, epoch=head.epoch).head == head


def test_it_saves_no_tensors_under_a_row_of_the_other(bench: Bench, overtake: Overtake) -> None:
    bench.turn_until(bench.is_quiet)
    overtake()
    before = everything(bench)
    with pytest.raises(LeaseLost):
        bench.loop.save()
    assert everything(bench) == before


def test_no_two_processes_hold_a_lease_by_the_same_name_even_with_the_same_host_name_and_id() -> None:
    assert _holder() != _holder()
