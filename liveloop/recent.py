"""The last 1,000 answers a person got on the command line, so that they can be judged later. Knows one SQLite file, no service."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from liveloop.errors import InvalidInput, Misconfigured, NotFound
from liveloop.v1.inference_pb2 import Prediction

_KEPT = 1000
_SCHEMA = "CREATE TABLE IF NOT EXISTS answers (place INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT UNIQUE, feedback_token TEXT)"


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


@contextmanager
def _open(folder: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on the file, which only its owner can read: a token is the authority to judge."""
    path = folder / "tokens.db"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with closing(sqlite3.connect(path, timeout=10)) as database, database:
            database.execute(_SCHEMA)
            yield database
    except (OSError, sqlite3.Error) as error:
        raise Misconfigured(f"{path} cannot be used ({error}); choose another folder with --data") from error
