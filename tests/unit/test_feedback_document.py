"""docs/feedback.md says what happens: every line of its table is driven through a journal."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from liveloop.errors import NotFound
from liveloop.events import Page, Record
from liveloop.tasks import LabelledExample
from liveloop.v1.events_pb2 import Event, ExampleEvent, Input, PodReport
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.experts import effective
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from services.learner.judgements import default_reward_id, state_name
from services.learner.micro_batch import MicroBatches
from services.learner.quarantine import Quarantine
from services.learner.view import JournalView
from tests.unit.test_joiner import START, WINDOW, at, feedback, prediction, prediction_id
from tests.unit.test_learning import RECIPE

HISTORY = 10 * WINDOW
LABELS = ("negative", "positive")
STATES = ("nothing", *(state_name(state).replace("_", " ") for state in State.values() if state))
DOCUMENT = Path(__file__).parents[2] / "docs" / "feedback.md"


class World:
    """A journal that has one prediction and perhaps something said of it."""

    def __init__(self, folder: Path, *, held_out: bool) -> None:
        self.folder = folder
        self.now = START + 5.0
        self.journal = Journal(folder / "learner.db", holder="test", clock=lambda: self.now)
        self.journal.db.execute("PRAGMA synchronous = OFF")  # nothing here is about power cuts
        assert self.journal.acquire(0)
        self.journal.change("init", RECIPE, {}, b"1", version=1)
        self.joiner = Joiner(self.journal.db, labels=LABELS, window=WINDOW, default_reward=1.0)
        self.batches = MicroBatches(self.journal.db, [LabelledExample("bad", 0)], LABELS)
        self.of = prediction_id(0, held_out=held_out)
        self.position = 0

    def read(self, *events: Event) -> None:
        self.position += 1
        self.journal.ingest(Page([Record(0, self.position, events)], frozenset()), self.joiner)

    def step(self) -> None:
        batch = self.batches.choose(nominal=8, limit=64, rng=random.Random(0))
        if batch.new:
            self.journal.train(batch, RECIPE, b"x", losses={})

    def report(self) -> None:
        row = self.journal.last()
        assert row is not None
        self.read(Event(pod_report=PodReport(pod="p", version=row.version or 0, flipped_at=at(6), reported_at=at(6))))

    def roll_back(self) -> None:
        self.journal.reset(1, RECIPE, b"1", "worse")

    def quarantine(self) -> Quarantine:
        return Quarantine(self.journal, RECIPE)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        with self.journal.transaction():
            self.journal.db.execute("INSERT OR REPLACE INTO positions VALUES (0, ?, ?)", (self.position + 1, self.now))
        self.journal.expire(self.joiner, [0], HISTORY)

    def state(self, feedback_id: str, of: str = "") -> str:
        try:
            found = JournalView(self.folder / "learner.db").feedback(of or self.of, feedback_id)
        except NotFound:
            return "not kept"
        return state_name(found.state).replace("_", " ")


def there(world: World, state: str) -> None:
    """Bring what the judge said, feedback "there", into a state."""
    if state != "pending":
        world.read(prediction(world.of))
    if state == "nothing":
        return
    accepted_at = WINDOW + 1 if state == "expired" else 2.0
    world.read(feedback(world.of, "there", "unheard of" if state == "rejected" else "up", accepted_at))
    if state in ("trained", "served", "quarantined"):
        world.step()
    if state == "served":
        world.report()
    if state == "quarantined":
        world.roll_back()
    if state == "superseded":
        world.read(feedback(world.of, "between", "down", 3.0))
        world.step()
    if state == "retracted":
        world.read(feedback(world.of, "between", "retraction", 3.0))


def new(world: World, signal: str, seconds: float = 4.0, judge: bytes = b"a", name: str = "new") -> None:
    event = feedback(world.of, name, signal if signal != "rating" else "up", seconds, judge)
    if signal == "rating":
        event.feedback.feedback.rating = 0.25
    world.read(event)


def again(world: World, signal: str) -> None:
    if world.state("there") != "not kept":
        new(world, signal, 2.0, name="there")


def excluded(world: World) -> None:
    world.journal.db.execute("INSERT INTO exclusions VALUES (?, 1)", (b"z",))
    new(world, "up", judge=b"z")


def labelled(world: World) -> None:
    world.read(Event(example=ExampleEvent(example_id="new", input=Input(text="fine"), label="positive", judge=b"a", accepted_at=at(4.0))))


COMES: dict[str, Callable[[World], None]] = {
    "thumb": lambda world: new(world, "down"),
    "rating": lambda world: new(world, "rating"),
    "correction": lambda world: new(world, "positive"),
    "retraction": lambda world: new(world, "retraction"),
    "the same again": lambda world: again(world, "up"),
    "the same id with other content": lambda world: again(world, "down"),
    "thumb given earlier and read later": lambda world: new(world, "down", 1.0),
    "thumb after the window": lambda world: new(world, "down", WINDOW + 2),
    "retraction after the window": lambda world: new(world, "retraction", WINDOW + 2),
    "thumb of another judge": lambda world: new(world, "down", judge=b"b"),
    "thumb of a judge who is to be forgotten": excluded,
    "labelled row": labelled,
    "its prediction": lambda world: world.read(prediction(world.of)),
    "the end of the window, with a default reward": lambda world: world.passes(WINDOW + 1),
    "a step": lambda world: world.step(),
    "a pod's report of the version": lambda world: world.report(),
    "a rollback to before its step": lambda world: world.roll_back(),
    "`liveloop quarantine release`": lambda world: world.quarantine().release([], who="ann", why="") and None,
    "`liveloop quarantine drop`": lambda world: world.quarantine().drop([], who="ann", why="") and None,
    "the end of `history`": lambda world: world.passes(HISTORY + WINDOW + 10),
}


def lines() -> Iterator[tuple[str, str, str, str]]:
    """(what comes, what was there, the new one is, what was there is), one state each."""
    table = DOCUMENT.read_text().partition("| what comes |")[2].partition("\n\n")[0].splitlines()[2:]
    named: dict[str, set[str]] = {}
    for line in table:
        comes, states, new_one, old_one = (cell.strip() for cell in line.strip("|").split("|"))
        for event in [comes] if comes in COMES else comes.split(", "):
            seen = named.setdefault(event, set())
            chosen = [state for state in STATES if state not in seen] if states.startswith("any") else states.split(", ")
            for state in chosen:
                yield event, state, new_one, old_one
            seen.update(chosen)


LINES = list(lines())


def test_the_table_names_every_event_in_every_state_once():
    assert sorted((event, state) for event, state, *_ in LINES) == sorted(product(COMES, STATES))


@pytest.mark.parametrize("event", COMES)
def test_what_the_table_says_happens(event: str, tmp_path: Path):
    for number, (_, state, new_one, old_one) in enumerate(line for line in LINES if line[0] == event):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(folder, held_out=state == "held out")
        there(world, state)
        assert world.state("there") == ("not kept" if state == "nothing" else state)
        COMES[event](world)
        found = world.state("new", "example:new") if event == "labelled row" else world.state("new")
        if event.startswith("the end of the window"):
            found = world.state(default_reward_id(world.of))
        before = "not kept" if state == "nothing" else state
        assert (found, world.state("there")) == (new_one or "not kept", old_one or before), (event, state)
        world.journal.close()


def test_the_weights_in_the_document_are_those_of_a_step():
    table = DOCUMENT.read_text().partition("| experts |")[2].partition("\n\n")[0].splitlines()[2:]
    for line in table:
        experts, each, together = (cell.strip() for cell in line.strip("|").split("|"))
        found = effective([1.0] * int(experts), [True] * int(experts), nominal=8, weight=2.0, share=0.5)
        assert found == [float(each)] * int(experts) and f"{sum(found):g} of 8" == together
