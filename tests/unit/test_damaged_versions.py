"""A learner whose older versions are damaged on disk: it goes back to what can be read, or waits; it never ends by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from liveloop.errors import Unavailable
from liveloop.v1.events_pb2 import THUMB_UP
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.examiner import Examiner
from tests.unit.test_learner_loop import Bench, bench

__all__ = ["bench"]


def learn(bench: Bench) -> int:
    """Train on one more thumb and settle; the version that serves it then."""
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: len(bench.states()) == bench.sent and not bench.parts.batches.waiting() and bench.is_quiet())
    return bench.head.current


def blobs(bench: Bench) -> set[Path]:
    return {path for path in (bench.folder / "weights" / "blobs").rglob("*") if path.is_file()}


def damage(paths: set[Path]) -> None:
    for path in paths:
        path.chmod(0o600)
        path.write_bytes(b"damaged")


def collapse(bench: Bench, how: Callable[[], bool]) -> None:
    """A step that leaves no finite weights."""
    bench.parts.trainer._ema[0] = float("nan")
    bench.thumb(THUMB_UP)
    bench.turn_until(how)


def unevaluated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learn a version that is not blessed."""
    monkeypatch.setattr(Examiner, "has_work", property(lambda examiner: False))
    assert learn(bench) > bench.head.blessed


def test_where_the_blessed_version_is_damaged_the_blessed_one_before_it_comes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.turn_until(bench.is_quiet)
    older, bits, intact = learn(bench), bench.parts.trainer.bits.copy(), blobs(bench)
    newer = learn(bench)
    assert bench.head.blessed == newer > older
    damage(blobs(bench) - intact)
    unevaluated(bench, monkeypatch)
    collapse(bench, lambda: bench.parts.journal.last().kind == "reset")
    assert bench.parts.journal.last().body["to"] == older and not bench.parts.journal.is_paused()
    assert np.array_equal(bench.publisher.state.bits, bits) and bench.head.blessed == bench.head.current
    assert learn(bench) > bench.head.blessed


def test_where_all_are_damaged_what_is_served_stays_and_training_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.turn_until(bench.is_quiet)
    learn(bench)
    damage(blobs(bench))
    unevaluated(bench, monkeypatch)
    served = bench.publisher.state.bits.copy()
    collapse(bench, bench.parts.journal.is_paused)
    assert np.array_equal(bench.publisher.state.bits, served) and np.array_equal(bench.parts.trainer.bits, served)
    assert bench.states() == [State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_QUARANTINED]


def test_a_redo_that_lacks_an_example_does_not_bring_back_what_was_just_taken_back(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def away(*_: object, **__: object) -> None:
        raise Unavailable("no space left")

    bench.turn_until(bench.is_quiet)
    first, bits = learn(bench), bench.parts.trainer.bits.copy()
    second = learn(bench)
    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(bench.publisher, "publish", away)
        bench.loop._rollback.order(first, "guard", "it went wrong")
    bench.parts.tensors.close()
    for path in (bench.folder / "tensors").iterdir():
        path.unlink()
    bench.parts.journal.db.execute("DELETE FROM predictions")
    bench.crash()
    last = bench.parts.journal.last()
    assert (last.kind, last.body["who"], last.body["to"]) == ("reset", "learner", first)
    assert bench.states() == [State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_QUARANTINED]
    bench.turn_until(lambda: bench.head.current > second)
    assert np.array_equal(bench.publisher.state.bits, bits)
