"""A disk that fails or is full, and a file that was damaged: feedback is refused rather than lost, and what can be read is delivered."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from liveloop.errors import LiveloopError, Misconfigured, Unavailable
from liveloop.events.intake import Intake
from liveloop.events.outbox import claim, orphans
from liveloop.events.salvage import damage, mend
from liveloop.events.sqlite import SqliteLog, Verdict
from tests.unit.event_samples import feedback

ROWS = 400
PAGE = 4096


def filled(folder: Path, *, released: int = 0) -> Path:
    """An outbox of one feedback a row, as a process that was killed leaves it: with a write-ahead log."""
    path, source = folder / "outbox" / "0.db", folder / "source.db"
    path.parent.mkdir(parents=True)
    with SqliteLog(source, retention=0.0) as log:
        for number in range(ROWS):
            log.append([feedback(number, f"feedback-{number}")])
        if released:
            log.release({0: released + 1})
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{source}{suffix}", f"{path}{suffix}")
    return path


def kept(folder: Path) -> list[str]:
    """Feedback that the next process finds in the outbox."""
    with claim(folder / "outbox", capacity=1 << 30, window=1000) as outbox:
        records = outbox.log.read({}, limit=10_000, timeout=0).records
        return [event.feedback.feedback.feedback_id for record in records for event in record.events]


def checkpointed(path: Path) -> None:
    """All in the one file."""
    with SqliteLog(path):
        pass
    assert not path.with_name("0.db-wal").exists()


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def damaged_files(path: Path) -> list[str]:
    return sorted(file.name.partition(".damaged-")[0] for file in path.parent.glob("*.damaged-*") if not file.name.endswith("-wal"))


def test_a_sound_outbox_is_left_alone(tmp_path: Path) -> None:
    path = filled(tmp_path)
    assert kept(tmp_path) == [f"feedback-{number}" for number in range(ROWS)]
    assert damaged_files(path) == []


@pytest.mark.parametrize("length", [100, PAGE])
def test_a_zeroed_header_loses_nothing(tmp_path: Path, length: int) -> None:
    path = filled(tmp_path)
    checkpointed(path)
    overwrite(path, 0, bytes(length))

    assert kept(tmp_path) == [f"feedback-{number}" for number in range(ROWS)]
    assert damaged_files(path) == ["0.db"]
    assert damage(path) is None


def test_of_what_was_released_nothing_comes_back(tmp_path: Path) -> None:
    path = filled(tmp_path, released=100)
    checkpointed(path)
    overwrite(path, 0, bytes(100))
    assert set(kept(tmp_path)) == {f"feedback-{number}" for number in range(100, ROWS)}


def test_bytes_overwritten_in_the_middle_cost_only_the_rows_on_their_page(tmp_path: Path) -> None:
    path = filled(tmp_path)
    checkpointed(path)
    row = re.search(rb"(?<!prediction-200)feedback-200", path.read_bytes())  # the other place is the table of accepted ids
    assert row
    overwrite(path, row.start() // PAGE * PAGE, b"\xff" * PAGE)

    found = kept(tmp_path)

    assert {"feedback-0", f"feedback-{ROWS - 1}"} <= set(found)
    assert ROWS - 100 < len(found) < ROWS
    assert found == sorted(found, key=lambda name: int(name.partition("-")[2]))
    assert damaged_files(path) == ["0.db"]


def test_a_file_cut_short_keeps_what_is_left(tmp_path: Path) -> None:
    path = filled(tmp_path)
    checkpointed(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)

    found = kept(tmp_path)

    assert 0 < len(found) < ROWS
    assert damaged_files(path) == ["0.db"]


def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "outbox" / "0.db"
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    assert kept(tmp_path) == []
    assert damaged_files(path) == ["0.db"]


def test_a_file_whose_maker_died_at_once_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "outbox" / "0.db"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert kept(tmp_path) == []
    assert damaged_files(path) == []


def test_the_damaged_file_stays_as_it_was_found(tmp_path: Path) -> None:
    path = filled(tmp_path)
    checkpointed(path)
    overwrite(path, 0, bytes(100))
    before = path.read_bytes()
    kept(tmp_path)
    assert [file.read_bytes() for file in path.parent.glob("*.damaged-*")] == [before]


@pytest.mark.parametrize("step", range(4))
def test_a_crash_while_an_outbox_is_replaced_is_finished_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    path = filled(tmp_path)
    checkpointed(path)
    Path(f"{path}-wal").write_bytes(b"")
    overwrite(path, 0, bytes(100))
    renames = iter(range(10))
    rename = Path.rename

    def crash(self: Path, target: Path | str) -> Path:
        if next(renames) == step:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", crash)
        mend(path)

    assert len(kept(tmp_path)) == ROWS
    assert damaged_files(path) == ["0.db"]


def test_a_damaged_outbox_that_nobody_holds_is_delivered_too(tmp_path: Path) -> None:
    path = filled(tmp_path)
    checkpointed(path)
    overwrite(path, 0, bytes(100))
    waiting = [outbox.log.waiting for outbox in orphans(path.parent, capacity=1 << 30, window=1000)]
    assert waiting == [ROWS]


def test_an_embedded_log_that_is_damaged_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(Misconfigured, match=r"events\.db cannot be opened as a database"):
        SqliteLog(path)


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from liveloop.errors import LiveloopError
from liveloop.events.intake import Intake
from liveloop.events.sqlite import SqliteLog
from tests.unit.event_samples import feedback

soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
intake, acknowledged, refused = Intake(SqliteLog(Path(sys.argv[1]))), [], []
def send(number):
    try:
        intake.accept(feedback(number, f"feedback-{number}")).result(60)
        acknowledged.append(f"feedback-{number}")
    except LiveloopError as error:
        refused.append(error.code)
for number in range(2000):
    send(number)
while_full = len(refused)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
for number in range(2000, 2010):
    send(number)
intake.close(0)
print(json.dumps([acknowledged, sorted(set(refused)), while_full, len(refused)]))
"""


def test_a_disk_that_is_full_refuses_feedback_and_loses_none_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True, timeout=300)
    acknowledged, codes, while_full, in_all = json.loads(done.stdout.splitlines()[-1])

    assert while_full > 0
    assert in_all == while_full, "refused after there was space again"
    assert set(codes) <= {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    with SqliteLog(path) as log:
        records = log.read({}, limit=10_000, timeout=0).records
    stored = {event.feedback.feedback.feedback_id for record in records for event in record.events}
    assert stored >= set(acknowledged)


class FailingSync(sqlite3.Connection):
    """A connection whose commits fail as SQLite's do when fsync(2) does."""

    fails = False

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement == "COMMIT" and FailingSync.fails:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return super().execute(statement, *parameters)


def test_a_sync_that_fails_refuses_feedback_until_it_works_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, factory=FailingSync, **named))
    intake = Intake(SqliteLog(tmp_path / "events.db"))
    assert intake.accept(feedback(1)).result(30) is Verdict.ACCEPTED

    monkeypatch.setattr(FailingSync, "fails", True)
    with pytest.raises(Unavailable, match="cannot be used"):
        intake.accept(feedback(2)).result(30)
    monkeypatch.setattr(FailingSync, "fails", False)

    assert intake.accept(feedback(2)).result(30) is Verdict.ACCEPTED
    intake.close(0)


def test_a_file_damaged_while_it_is_used_refuses_feedback_and_the_next_process_delivers_what_is_left(tmp_path: Path) -> None:
    path = filled(tmp_path)
    checkpointed(path)
    outbox = claim(path.parent, capacity=1 << 30, window=1000)
    intake = Intake(outbox.log)
    overwrite(path, PAGE, b"\xff" * (path.stat().st_size - PAGE))
    acknowledged, refused = [], 0
    for number in range(ROWS, ROWS + 50):
        try:
            intake.accept(feedback(number, f"feedback-{number}")).result(30)
            acknowledged.append(f"feedback-{number}")
        except LiveloopError as error:
            refused += error.code == "UNAVAILABLE"
    intake.close(0)
    outbox.close()

    assert refused + len(acknowledged) == 50
    assert refused
    assert set(kept(tmp_path)) >= set(acknowledged)
    assert damaged_files(path) == ["0.db"]
