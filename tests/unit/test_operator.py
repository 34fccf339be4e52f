"""Orders from the client through gRPC to the loop's thread, on a real journal, a real weight store and a tiny model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from liveloop import Client, InvalidInput, NotFound, NotNow, Overloaded, Unavailable
from liveloop.errors import HeadConflict
from liveloop.v1.events_pb2 import THUMB_UP
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.v1.learner_pb2 import PauseRequest, Version, VersionState
from liveloop.v1.learner_pb2_grpc import LearnerServiceStub
from liveloop.weights import publisher
from services.learner import housekeeping
from services.learner import server as server_module
from services.learner.examiner import Examiner
from services.learner.journal import By
from services.learner.orders import MOST, Orders
from services.learner.server import Askers, serve
from services.learner.view import JournalView
from tests.servers import free_port, wait_until
from tests.unit.test_joiner import prediction_id
from tests.unit.test_learner_loop import Bench

ASKER_KEY = b"k" * 32
ANN = {"who": "ann", "why": "it looked wrong"}

Answer = TypeVar("Answer")


class Led(Bench):
    """A learner that leads and takes orders by gRPC: `order` turns the loop until the call is answered."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.orders = Orders()
        self.address = f"127.0.0.1:{free_port()}"
        self.server = serve(self.address, JournalView(folder / "learner.db"), self.orders, Askers(lambda: ASKER_KEY, 60.0))
        self.client = Client(learner=self.address, timeout=60)
        self.pool = ThreadPoolExecutor(1)

    def order(self, call: Callable[[Client], Answer]) -> Answer:
        self.parts.orders = self.orders
        with self.orders.accepting():
            answer = self.pool.submit(call, self.client)
            self.turn_until(answer.done)
            return answer.result()

    def learn(self) -> int:
        """Train on one more thumb and settle; the version that serves it then."""
        self.thumb(THUMB_UP)
        self.turn_until(lambda: len(self.states()) == self.sent and not self.parts.batches.waiting() and self.is_quiet())
        return self.head.current

    def versions(self) -> dict[int, Version]:
        return {version.version: version for version in self.client.versions(100)}

    def notes(self) -> list[dict[str, object]]:
        """The decisions in the journal that somebody ordered."""
        return [dict(row.body) for row in self.parts.journal._rows("kind = 'note' ORDER BY row") if "who" in row.body]

    def end(self) -> None:
        self.client.close()
        self.pool.shutdown()
        self.server.stop(grace=None).wait()
        self.parts.tensors.close()
        self.publisher.close()
        self.parts.journal.close()
        self.log.close()


@pytest.fixture
def led(tmp_path: Path) -> Iterator[Led]:
    found = Led(tmp_path)
    found.turn_until(found.is_quiet)
    yield found
    found.end()


def test_a_rollback_serves_the_old_bytes_and_quarantines_what_was_learnt_since(led: Led):
    first = led.learn()
    bits = led.parts.trainer.bits.copy()
    led.learn()
    answer = led.order(lambda client: client.rollback(first, **ANN))
    assert (answer.version, answer.quarantined) == (led.head.current, 1)
    assert np.array_equal(led.publisher.state.bits, bits) and np.array_equal(led.parts.trainer.bits, bits)
    assert led.states() == [State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_QUARANTINED]
    body = led.parts.journal.last().body
    assert (body["to"], body["who"], body["why"]) == (first, "ann", "it looked wrong")
    found = led.versions()
    undone = [found[version].state for version in range(first + 1, answer.version)]
    assert undone and set(undone) == {VersionState.VERSION_STATE_ROLLED_BACK}
    assert found[first].state == VersionState.VERSION_STATE_BLESSED and found[answer.version].current


def test_a_rollback_behind_the_blessed_version_blesses_the_one_it_goes_back_to(led: Led, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Examiner, "has_work", property(lambda examiner: False))  # nothing is blessed but by order
    first, blessed, _ = led.learn(), led.learn(), led.learn()
    led.order(lambda client: client.promote(blessed, **ANN))
    led.order(lambda client: client.rollback(first, **ANN))
    assert led.head.blessed == led.head.current  # it has the bytes of `first`
    states = {number: version.state for number, version in led.versions().items()}
    assert (states[first], states[blessed]) == (VersionState.VERSION_STATE_BLESSED, VersionState.VERSION_STATE_ROLLED_BACK)


def test_a_rollback_to_what_a_rollback_undid_lets_its_feedback_stand_again(led: Led):
    first = led.learn()
    second = led.learn()
    bits = led.parts.trainer.bits.copy()
    led.order(lambda client: client.rollback(first, **ANN))
    third = led.learn()
    answer = led.order(lambda client: client.rollback(second, **ANN))
    assert answer.quarantined == 1 and np.array_equal(led.publisher.state.bits, bits)
    assert led.states() == [State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_QUARANTINED]
    states = {number: version.state for number, version in led.versions().items()}
    assert states[third] == VersionState.VERSION_STATE_ROLLED_BACK != states[second]
    status = led.client.status(prediction_id(1), "x")
    assert (status.version, status.step) == (answer.version, led.parts.journal.making(first + 1).row)


def test_the_same_rollback_again_changes_nothing_and_one_to_the_newest_is_refused(led: Led):
    first = led.learn()
    with pytest.raises(NotNow):
        led.order(lambda client: client.rollback(first, **ANN))
    led.learn()
    answer = led.order(lambda client: client.rollback(first, **ANN))
    assert led.order(lambda client: client.rollback(first, **ANN)) == answer


def test_a_rolled_back_learner_is_redone_to_the_bit(led: Led):
    first = led.learn()
    led.learn()
    led.order(lambda client: client.rollback(first, **ANN))
    led.learn()
    bits, version = led.parts.trainer.bits.copy(), led.head.current
    led.crash()
    assert np.array_equal(led.parts.trainer.bits, bits) and led.head.current == version


def test_a_rollback_of_a_learner_that_another_one_overtook_ends_its_lead(led: Led, monkeypatch: pytest.MonkeyPatch):
    def overtaken(*_: object, **__: object) -> None:
        raise HeadConflict("another publisher moved the head")

    first = led.learn()
    led.learn()
    monkeypatch.setattr(led.publisher, "publish", overtaken)
    with pytest.raises(HeadConflict):
        led.loop._operator.rollback(first, By("ann", "it looked wrong"))


def test_released_feedback_trains_in_a_new_row_and_dropped_feedback_never(led: Led):
    first = led.learn()
    for _ in range(3):
        led.learn()
    led.order(lambda client: client.rollback(first, **ANN))
    listed = led.client.quarantine()
    assert listed.total == 3 and [one.prediction_id for one in listed.feedback] == [prediction_id(number) for number in (3, 2, 1)]
    assert {(one.signal, one.step > 0, "ann" in one.reason) for one in listed.feedback} == {("up", True, True)}, listed
    assert led.client.quarantine(1).total == 3 and len(led.client.quarantine(1).feedback) == 1
    row = led.parts.journal.next_row()
    named = [(prediction_id(1), "x"), (prediction_id(99), "x")]
    assert led.order(lambda client: client.release(named, **ANN)) == 1
    assert led.order(lambda client: client.drop([(prediction_id(2), "x")], **ANN)) == 1
    assert led.order(lambda client: client.drop([], **ANN)) == 0
    led.turn_until(lambda: led.states()[1] == State.FEEDBACK_STATE_TRAINED)
    status = led.client.status(prediction_id(1), "x")
    assert status.step >= row and led.versions()[status.version].feedback == 1
    dropped = led.client.status(prediction_id(2), "x")
    assert (dropped.state, dropped.reason) == (State.FEEDBACK_STATE_REJECTED, "rejected by ann: it looked wrong")
    assert led.order(lambda client: client.release(None, **ANN)) == 1
    led.turn_until(lambda: State.FEEDBACK_STATE_QUARANTINED not in led.states() and not led.parts.batches.waiting())
    assert [note["decision"] for note in led.notes()] == ["release", "drop", "release"]


def test_released_feedback_whose_example_is_gone_expires(led: Led):
    led.learn()
    led.order(lambda client: client.rollback(1, **ANN))
    led.parts.journal.db.execute("DELETE FROM predictions")
    assert led.order(lambda client: client.release(None, **ANN)) == 0
    assert led.states() == [State.FEEDBACK_STATE_EXPIRED]


def test_a_pause_stops_steps_and_not_reading_and_outlives_a_restart(led: Led):
    version = led.learn()
    led.order(lambda client: client.pause(**ANN))
    led.thumb(THUMB_UP)
    led.turn_until(lambda: led.states()[1:] == [State.FEEDBACK_STATE_JOINED])
    led.crash()
    for _ in range(5):
        led.loop.turn()
    assert led.head.current == version and led.states()[1] == State.FEEDBACK_STATE_JOINED
    led.order(lambda client: client.resume(who="bob"))
    led.turn_until(lambda: led.states()[1] == State.FEEDBACK_STATE_TRAINED)
    assert led.notes() == [{"decision": "pause", **ANN}, {"decision": "resume", "who": "bob", "why": ""}]


def test_a_pinned_version_outlives_collection_and_restarts_until_it_is_unpinned(led: Led, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(publisher, "KEYFRAME_INTERVAL", 2)
    monkeypatch.setattr(housekeeping, "_BLESSED_KEPT", 1)
    pinned = led.learn()
    led.order(lambda client: client.pin(pinned, **ANN))
    bits = led.parts.trainer.bits.copy()
    for _ in range(4):
        led.learn()
    led.crash()
    led.turn_until(led.is_quiet)
    collect(led)
    assert np.array_equal(led.parts.publication.load(pinned), bits) and not led.publisher.keeps(pinned + 2)
    assert led.versions()[pinned].pinned
    with pytest.raises(NotNow):
        led.order(lambda client: client.pin(pinned + 2, **ANN))
    led.order(lambda client: client.unpin(pinned, **ANN))
    collect(led)
    assert not led.publisher.keeps(pinned) and not led.versions()[pinned].pinned
    with pytest.raises(NotNow):
        led.order(lambda client: client.unpin(pinned, **ANN))


def collect(led: Led) -> None:
    led.loop._housekeeping.hurry()
    led.loop.turn()


def test_a_promotion_moves_the_blessed_version_also_backwards(led: Led, monkeypatch: pytest.MonkeyPatch):
    first = led.learn()
    led.learn()
    assert led.head.blessed > first
    monkeypatch.setattr(Examiner, "has_work", property(lambda examiner: False))
    led.order(lambda client: client.promote(first, **ANN))
    assert led.head.blessed == first and led.notes() == [{"decision": "promote", "version": first, **ANN}]
    with pytest.raises(NotFound):
        led.order(lambda client: client.promote(999, **ANN))


def test_a_promotion_that_cannot_be_published_leaves_nothing_behind(led: Led, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Examiner, "has_work", property(lambda examiner: False))
    version = led.learn()

    def away(_: int) -> None:
        raise Unavailable("no space left")

    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(led.publisher, "bless", away)
        led.order(lambda client: client.promote(version, **ANN))
    assert led.head.blessed == 1 and not led.versions()[version].blessed and led.notes() == []
    led.order(lambda client: client.promote(version, **ANN))
    assert led.head.blessed == version


@pytest.mark.parametrize(
    ("order", "field"),
    [
        (lambda client: client.pause(who=""), "who"),
        (lambda client: client.pause(who="x" * 257), "who"),
        (lambda client: client.rollback(1, who="ann", why="x" * 257), "why"),
        (lambda client: client.promote(0, who="ann"), "version"),
        (lambda client: client.release([("p", "f"), ("p", "")], who="ann"), "feedback[1].feedback_id"),
        (lambda client: client.quarantine(1001), "limit"),
    ],
)
def test_an_order_that_cannot_be_used_names_its_field(led: Led, order: Callable[[Client], object], field: str):
    with pytest.raises(InvalidInput) as refused:
        led.order(order)
    assert refused.value.field == field


def test_a_learner_that_does_not_lead_refuses_orders_and_still_answers_questions(led: Led):
    for order in (lambda: led.client.pause(**ANN), lambda: led.client.rollback(1, **ANN), lambda: led.client.drop(None, **ANN)):
        with pytest.raises(NotNow):
            order()
    assert led.client.quarantine().total == 0 and led.notes() == []


def test_an_order_whose_caller_gave_up_never_runs():
    orders, ran = Orders(), []
    with orders.accepting():
        with pytest.raises(Unavailable):
            orders.place(ran.append, patience=0.01)
        assert not orders.carry_out(None) and ran == []


def test_orders_that_wait_when_the_lead_is_lost_are_refused():
    orders, refused = Orders(), threading.Event()

    def place() -> None:
        with pytest.raises(NotNow):
            orders.place(lambda operator: None)
        refused.set()

    thread = threading.Thread(target=place)
    with orders.accepting():
        thread.start()
        while not orders._waiting:
            assert thread.is_alive()
    thread.join()
    assert refused.is_set()


def test_an_order_whose_caller_went_away_never_runs(led: Led, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_module, "PATIENCE", 600.0)
    with led.orders.accepting():
        stub = LearnerServiceStub(led.client._channels[1])
        call = stub.Pause.future(PauseRequest(**ANN))
        wait_until(lambda: bool(led.orders._waiting))
        call.cancel()
        wait_until(lambda: not led.orders._waiting)
    led.learn()  # steps are taken: nothing was paused
    assert led.notes() == []


def test_no_more_orders_wait_than_leave_room_for_questions(led: Led):
    with led.orders.accepting():
        stub = LearnerServiceStub(led.client._channels[1])
        calls = [stub.Pause.future(PauseRequest(**ANN)) for _ in range(MOST)]
        wait_until(lambda: len(led.orders._waiting) == MOST)
        with pytest.raises(Overloaded):
            led.client.resume(**ANN)
        assert led.client.versions() and led.client.quarantine().total == 0
        for call in calls:
            call.cancel()
        wait_until(lambda: not led.orders._waiting)
    led.order(lambda client: client.pause(**ANN))  # there is room again
