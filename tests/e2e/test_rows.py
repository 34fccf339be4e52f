"""Labelled rows that no prediction preceded, from a file to the weights that serve."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from liveloop.client import Client
from liveloop.errors import NotFound
from liveloop.rows import EXAMPLE
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.joiner import is_held_out
from tests.e2e.running import LIVELOOP, Running, wait_for

KEPT = next(name for number in range(1000) if is_held_out(EXAMPLE + (name := f"kept-{number}")))
TRAINED = next(name for number in range(1000) if not is_held_out(EXAMPLE + (name := f"trained-{number}")))


def state_of(client: Client, row: str) -> int:
    try:
        return client.status(EXAMPLE + row).state
    except NotFound:
        return State.FEEDBACK_STATE_UNSPECIFIED


def test_rows_of_a_file_train_once_and_a_tenth_only_checks_the_model(loop: Running, tmp_path: Path) -> None:
    label = loop.client.model().labels[0]
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"labelled by hand: {name}", "label": label, "id": name}) + "\n" for name in (TRAINED, KEPT))
    )
    command = [LIVELOOP, "learn", file, "--grpc-port", loop.grpc_target.rpartition(":")[2]]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert first.stdout.split()[:2] == ["accepted", "2"]
    wait_for(lambda: state_of(loop.client, TRAINED) == State.FEEDBACK_STATE_SERVED, "the row is in what serves")
    wait_for(lambda: state_of(loop.client, KEPT) == State.FEEDBACK_STATE_HELD_OUT, "the other only checks")
    learnt = loop.client.status(EXAMPLE + TRAINED).version
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.split()[:2] == ["accepted", "0"]
    assert loop.client.status(EXAMPLE + TRAINED).version == learnt
