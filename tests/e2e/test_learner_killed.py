"""The learner killed at any moment: no acknowledged feedback is lost or counted twice, and the journal explains the weights."""

import json
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch

from liveloop import keys
from liveloop.tasks import LabelledExample
from liveloop.tasks.classification import Classification
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher, read_model
from services.learner.journal import Journal
from services.learner.micro_batch import MicroBatches
from services.learner.redo import redo
from services.learner.trainer import Trainer
from tests.e2e.conftest import NewLoop
from tests.e2e.running import Running, wait_for

KILLS = 4
SETTLED = (State.FEEDBACK_STATE_SERVED, State.FEEDBACK_STATE_HELD_OUT, State.FEEDBACK_STATE_QUARANTINED)

Ledger = list[tuple[str, str]]  # prediction id, feedback id: what was acknowledged


def test_a_learner_killed_at_random_moments_loses_and_doubles_nothing(new_loop: NewLoop) -> None:
    running = new_loop()
    moments = random.Random(20)
    with thumbs(running) as ledger:
        for _ in range(KILLS):
            enough = len(ledger) + moments.randint(4, 16)
            wait_for(lambda enough=enough: len(ledger) >= enough, "feedback flows")  # type: ignore[misc]
            time.sleep(moments.uniform(0.0, 0.4))  # into the middle of a step, a commit or a publish
            running.processes.kill("learner")
            running.processes.restart("learner")
    for prediction_id, feedback_id in ledger:
        wait_for(lambda p=prediction_id, f=feedback_id: settled(running, p, f), f"{feedback_id} settles")  # type: ignore[misc]
    running.wait_settled()
    running.stop()
    assert_in_one_standing_row(running, ledger)
    assert_journal_explains_weights(running)


def test_feedback_acknowledged_just_before_inference_is_killed_is_served(new_loop: NewLoop) -> None:
    running = new_loop()
    prediction = running.predict("here today")
    ack = running.accepted(running.client.feedback(prediction, "up"))
    running.processes.kill("inference")
    running.wait_state(prediction, ack, State.FEEDBACK_STATE_TRAINED, State.FEEDBACK_STATE_EXPIRED)
    running.processes.restart("inference")
    running.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)


@contextmanager
def thumbs(running: Running) -> Iterator[Ledger]:
    """Thumbs given one after the other while the block runs; yields what was acknowledged, as it grows."""
    ledger: Ledger = []
    done = threading.Event()

    def give() -> None:
        while not done.wait(0.05):
            prediction = running.client.predict(f"scene {len(ledger)} drags on")
            ack = running.accepted(running.client.feedback(prediction, ("up", "down")[len(ledger) % 2]))
            ledger.append((prediction.prediction_id, ack.feedback_id))

    giver = threading.Thread(target=give)
    giver.start()
    try:
        yield ledger
    finally:
        done.set()
        giver.join()


def settled(running: Running, prediction_id: str, feedback_id: str) -> bool:
    with running.new_client() as client:
        return client.status(prediction_id, feedback_id).state in SETTLED


def assert_in_one_standing_row(running: Running, ledger: Ledger) -> None:
    with closing(sqlite3.connect(running.settings.data / "learner.db")) as db:
        numbers = {
            (p, f): (number, state) for p, f, number, state in db.execute("SELECT prediction_id, feedback_id, id, state FROM feedback")
        }
        rows = db.execute("SELECT row, kind, version, body FROM rows ORDER BY row").fetchall()
    standing: list[tuple[int, str, int, str]] = []
    for row in rows:
        if row[1] == "reset":
            standing = [earlier for earlier in standing if earlier[2] <= json.loads(row[3])["to"]]
        if row[2] is not None:
            standing.append(row)
    introduced = Counter(number for _, kind, _, body in standing if kind == "train" for number in json.loads(body)["new"])
    assert numbers.keys() == set(ledger)
    for number, state in numbers.values():
        assert introduced[number] == (1 if state == State.FEEDBACK_STATE_SERVED else 0)


def assert_journal_explains_weights(running: Running) -> None:
    """The whole journal, redone from version 1, gives the bytes that are served."""
    settings = running.settings
    store, key = DirectoryStore(settings.data / "weights"), keys.signing_key(settings)
    model = read_model(store, key.public_key())
    task = Classification(model.bundle)
    lines = [json.loads(line) for line in (settings.data / "task" / "train.jsonl").read_text().splitlines()]
    rows = [LabelledExample(line["text"], task.labels.index(line["label"])) for line in lines]
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.learner_threads or os.cpu_count() or 1)
    try:
        with (
            closing(Journal(settings.data / "learner.db", holder="redo")) as journal,
            Publisher(store, key, epoch=model.epoch) as publisher,
        ):
            trainer = Trainer(task, model.bundle.layout, torch.device("cpu"))
            batches = MicroBatches(journal.db, rows, task.labels)
            last = redo(journal, trainer, batches, lambda version: publisher.load(version, journal.manifest(version)))
            assert last.version == publisher.head.current
            assert last.state_digest == publisher.state.digest
            assert not [row for row in journal.since(0) if row.kind == "rebase"]
    finally:
        torch.set_num_threads(threads)
