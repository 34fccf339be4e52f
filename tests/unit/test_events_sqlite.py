"""The embedded log: duplicates, bounds, shared files, bad rows."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from event_samples import feedback, prediction

from liveloop.errors import LiveloopError, Misconfigured, Overloaded
from liveloop.events.sqlite import SqliteLog, Verdict
from liveloop.v1.events_pb2 import Event

WRITER = """
import sys
from pathlib import Path
from event_samples import feedback
from liveloop.events.sqlite import SqliteLog
log = SqliteLog(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    verdicts = log.write([feedback(number, sys.argv[2]), feedback(number, "same")])
    print(number, verdicts[0].name, verdicts[1].name, flush=True)
"""


def all_events(log: SqliteLog) -> list[Event]:
    return [event for record in log.read({}, limit=100_000, timeout=0).records for event in record.events]


def test_the_same_feedback_twice_is_a_duplicate_and_stored_once(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "events.db") as log:
        assert log.write([feedback(1), feedback(1, seconds=5), feedback(2)]) == [Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.ACCEPTED]
        assert log.write([feedback(2)]) == [Verdict.DUPLICATE]

        assert all_events(log) == [feedback(1), feedback(2)]


def test_a_duplicate_is_known_after_a_restart(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "events.db") as log:
        log.write([feedback(1)])

    with SqliteLog(tmp_path / "events.db") as again:
        assert again.write([feedback(1)]) == [Verdict.DUPLICATE]
        assert len(all_events(again)) == 1


@pytest.mark.parametrize("other", [feedback(1, rating=0.0), feedback(1, judge=b"somebody else")], ids=["content", "judge"])
def test_the_same_id_with_other_content_is_a_conflict_and_not_stored(tmp_path: Path, other: Event) -> None:
    with SqliteLog(tmp_path / "events.db") as log:
        log.write([feedback(1)])

        assert log.write([other]) == [Verdict.CONFLICT]
        assert all_events(log) == [feedback(1)]


def test_of_concurrent_duplicates_exactly_one_is_accepted(tmp_path: Path) -> None:
    verdicts: list[Verdict] = []

    def write() -> None:
        with SqliteLog(tmp_path / "events.db") as log:
            for number in range(20):
                verdicts.extend(log.write([feedback(number)]))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(verdicts) == {Verdict.ACCEPTED: 20, Verdict.DUPLICATE: 60}


def test_processes_on_one_file_lose_nothing_and_agree_on_duplicates(tmp_path: Path) -> None:
    count = 150
    processes = [_writer(tmp_path, name, count) for name in ("one", "two", "three")]
    lines = [process.communicate(timeout=120)[0].splitlines() for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert Counter(line.split()[2] for own in lines for line in own) == {"ACCEPTED": count, "DUPLICATE": 2 * count}
    with SqliteLog(tmp_path / "events.db") as log:
        ids = Counter(event.feedback.feedback.feedback_id for event in all_events(log))
    assert ids == {"one": count, "two": count, "three": count, "same": count}


def test_what_a_killed_process_was_told_is_stored_is_there(tmp_path: Path) -> None:
    killed, other = _writer(tmp_path, "killed", 100_000), _writer(tmp_path, "other", 100)
    assert killed.stdout
    for _ in range(50):
        killed.stdout.readline()
    killed.kill()
    acknowledged = 50 + sum(line.endswith("\n") for line in killed.stdout)
    killed.wait()
    assert other.communicate(timeout=120) is not None
    assert other.returncode == 0

    with SqliteLog(tmp_path / "events.db") as log:
        stored = [event for event in all_events(log) if event.feedback.feedback.feedback_id == "killed"]
        assert len(stored) >= acknowledged
        assert log.write([feedback(0, "killed")]) == [Verdict.DUPLICATE]


def test_a_full_log_refuses_and_takes_again_once_it_was_read(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "events.db", capacity=300_000, window=0) as log:
        number = 0
        with pytest.raises(Overloaded):
            while True:
                log.write([prediction(number, text="x" * 1000)])
                number += 1
        assert 0.99 < log.fill < 1.2
        with pytest.raises(Overloaded):
            log.append([feedback(1)])
        assert len(all_events(log)) == number

        log.release({0: number + 1})

        assert log.fill < 0.2
        assert log.write([feedback(1)]) == [Verdict.ACCEPTED]


def test_no_space_on_the_disk_is_overload_and_loses_nothing(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "events.db") as log:
        log.write([feedback(1)])
        pages = log._database.read(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
        log._database.write(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchall())

        with pytest.raises(Overloaded):
            log.write([prediction(1, text="x" * 100_000), feedback(2)])
        log._database.write(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchall())

        assert all_events(log) == [feedback(1)]
        assert log.write([feedback(2)]) == [Verdict.ACCEPTED]


def test_rows_stay_until_they_are_both_released_and_older_than_the_window(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "young.db", window=3600) as young:
        young.write([feedback(1)])
        young.release({0: 2})
        assert len(all_events(young)) == 1

    with SqliteLog(tmp_path / "old.db", window=0) as old:
        old.write([feedback(1)])
        old.write([feedback(2)])
        old.release({0: 2})
        assert all_events(old) == [feedback(2)]
        with pytest.raises(LiveloopError):
            old.read({0: 1}, limit=1, timeout=0)


def test_one_release_removes_at_most_a_thousand_rows(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "events.db", window=0) as log:
        record = log._database.write
        record(lambda c: c.executemany("INSERT INTO batch (written_at, events, record) VALUES (0, 1, ?)", [(b"",)] * 1500))
        log.release({0: 1501})
        left = log._database.read(lambda c: c.execute("SELECT count(*) FROM batch").fetchone()[0])
        assert left == 500


def test_ids_outlive_the_rows_of_an_outbox(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "0.db", window=3600, retention=0) as outbox:
        outbox.write([feedback(1)])
        outbox.release({0: 2})

        assert all_events(outbox) == []
        assert (outbox.waiting, outbox.oldest) == (0, 0.0)
        assert outbox.write([feedback(1)]) == [Verdict.DUPLICATE]


def test_ids_go_after_the_window(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "events.db", window=0) as log:
        log.write([feedback(1)])
        log.release({0: 2})

        assert log.write([feedback(1)]) == [Verdict.ACCEPTED]


def test_positions_go_on_after_everything_was_removed(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "events.db", window=0) as log:
        log.write([feedback(1)])
        log.release({0: 2})
    with SqliteLog(tmp_path / "events.db", window=0) as log:
        log.write([feedback(2)])

        assert [record.position for record in log.read({0: 2}, limit=10, timeout=0).records] == [2]


@pytest.mark.parametrize("damage", [b"\xff\xff\xff", b"", b"\x08\x09"], ids=["garbage", "empty", "unknown format"])
def test_a_row_that_cannot_be_read_comes_with_its_bytes_and_what_is_wrong(tmp_path: Path, damage: bytes) -> None:
    with SqliteLog(tmp_path / "events.db") as log:
        for number in (1, 2, 3):
            log.write([feedback(number)])
        log._database.write(lambda connection: connection.execute("UPDATE batch SET record = ? WHERE position = 2", (damage,)))

        page = log.read({}, limit=10, timeout=0)

    assert [record.position for record in page.records] == [1, 2, 3]
    assert [event for record in page.records for event in record.events] == [feedback(1), feedback(3)]
    assert [(record.content, record.fault is not None) for record in page.records][1] == (damage, True)
    assert [record.fault for record in page.records][::2] == [None, None]


def test_a_reader_elsewhere_never_meets_a_lock(tmp_path: Path) -> None:
    writer = _writer(tmp_path, "one", 400)
    with SqliteLog(tmp_path / "events.db") as log:
        position = 1
        while writer.poll() is None:
            for record in log.read({0: position}, limit=50, timeout=0.01).records:
                position = record.position + 1
                log.release({0: position})
        writer.communicate()
        assert len(all_events(log)) == 800
    assert writer.returncode == 0


def test_the_write_ahead_log_stays_bounded(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "events.db") as log:
        for number in range(400):
            log.write([prediction(number, text="x" * 4000)])
        written = 400 * 4000
        assert (tmp_path / "events.db-wal").stat().st_size < written


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_bytes(b"this is not a database, and it is longer than one header" * 10)

    with pytest.raises(Misconfigured, match="cannot be opened"):
        SqliteLog(tmp_path / "events.db")


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    SqliteLog(tmp_path / "events.db").close()
    connection = sqlite3.connect(tmp_path / "events.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(Misconfigured, match="format 99"):
        SqliteLog(tmp_path / "events.db")


def _writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder / "events.db"), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)


def test_a_read_of_a_long_backlog_ends_before_it_holds_much_of_it(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "events.db") as log:
        for number in range(10):
            log.append([prediction(number, text="x" * 1_000_000)])
        page = log.read({}, limit=100, timeout=0)
        assert len(page.records) == 2
        assert not page.at_end
        rest = log.read({0: 9}, limit=100, timeout=0)
        assert [record.position for record in rest.records] == [9, 10]
        assert rest.at_end == {0}
