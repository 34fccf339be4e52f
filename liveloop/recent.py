"""The last 1,000 answers a person got on the command line, to be judged later, and what was said. Knows one SQLite file, no service."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from liveloop.errors import InvalidInput, Misconfigured, NotFound
from liveloop.v1.inference_pb2 import Prediction

_KEPT = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (place INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT UNIQUE, feedback_token TEXT);
CREATE TABLE IF NOT EXISTS sent (place INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT, feedback_id TEXT UNIQUE);
"""


def keep(folder: Path, predictions: Iterable[Prediction]) -> None:
    """Keep the ids and tokens of answers in the data folder; those before the last 1,000 go."""
    rows = [(one.prediction_id, one.feedback_token) for one in predictions if one.feedback_token]
    with _open(folder) as database:
        database.executemany("INSERT OR REPLACE INTO answers (prediction_id, feedback_token) VALUES (?, ?)", rows)
        database.execute("DELETE FROM answers WHERE place <= (SELECT max(place) FROM answers) - ?", (_KEPT,))


def find(folder: Path, prefix: str) -> Prediction:
    """The kept answer whose id begins with `prefix`: its id and token.

    Raises:
        NotFound: there is none.
        InvalidInput: there are several.
    """
    with _open(folder) as database:
        query = "SELECT prediction_id, feedback_token FROM answers WHERE substr(prediction_id, 1, ?) = ? ORDER BY place DESC LIMIT 4"
        rows = database.execute(query, (len(prefix), prefix.lower())).fetchall()
    if not rows:
        raise NotFound(f"none of the last {_KEPT:,} answers in {folder} has an id that begins with {prefix!r}")
    if len(rows) > 1:
        raise InvalidInput(f"{prefix!r} fits several answers; give more of the id: {', '.join(row[0] for row in rows[:3])}", field="id")
    return Prediction(prediction_id=rows[0][0], feedback_token=rows[0][1])


def keep_sent(folder: Path, prediction_id: str, feedback_id: str) -> None:
    """Keep that a feedback was acknowledged; those before the last 1,000 go."""
    with _open(folder) as database:
        database.execute("INSERT OR REPLACE INTO sent (prediction_id, feedback_id) VALUES (?, ?)", (prediction_id, feedback_id))
        database.execute("DELETE FROM sent WHERE place <= (SELECT max(place) FROM sent) - ?", (_KEPT,))


def find_sent(folder: Path, prediction_id: str, feedback_id: str = "") -> str:
    """The id of the feedback, or of the newest on that answer, if it was sent from here; an empty one if not."""
    with _open(folder) as database:
        query = "SELECT feedback_id FROM sent WHERE prediction_id = ? AND ? IN ('', feedback_id) ORDER BY place DESC LIMIT 1"
        row = database.execute(query, (prediction_id, feedback_id.lower())).fetchone()
    return row[0] if row else ""


@contextmanager
def _open(folder: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on the file, which only its owner can read: a token is the authority to judge."""
    path = folder / "tokens.db"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with closing(sqlite3.connect(path, timeout=10)) as database, database:
            database.executescript(_SCHEMA)
            yield database
    except (OSError, sqlite3.Error) as error:
        raise Misconfigured(f"{path} cannot be used ({error}); choose another folder with --data") from error
