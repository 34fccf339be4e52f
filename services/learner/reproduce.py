"""The proof of a version: the journal redone up to it, digest by digest, beside a running loop. Reads the data folder, never writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from liveloop.errors import BlobCorrupt, Misconfigured, NotFound
from liveloop.weights.head import read_head
from liveloop.weights.records import Records
from liveloop.weights.state import FlatState
from liveloop.weights.store import WeightStore
from services.learner.journal import FORMAT
from services.learner.micro_batch import MicroBatches
from services.learner.redo import Cached, Load, Replay
from services.learner.rows import STEPS, JournalRows, Row
from services.learner.tensors import newest_set
from services.learner.trainer import Recipe, Trainer


class Outcome(IntEnum):
    """What came of it; the number is the command's exit status."""

    EQUAL = 0
    UNEQUAL = 1
    ERASED = 3


@dataclass(frozen=True, slots=True)
class Proof:
    """What redoing a version showed."""

    outcome: Outcome
    rows: int  # redone
    after: int  # the row whose tensors it began with; 0: the beginning
    differs: Row | None = None  # the first row that left another state
    erased: int = 0  # examples that are not kept any more; 0 where it is not known how many


class ReadJournal(JournalRows):
    """The rows of a journal that another process may be writing."""

    def __init__(self, path: Path) -> None:
        """Open `path`. Raises Misconfigured when it is no journal of this version."""
        try:
            self.db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30.0)
            found = self.db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise Misconfigured(f"the journal {path} cannot be read: {error}") from error
        if found != FORMAT:
            raise Misconfigured(f"the journal {path} has format {found}, this liveloop reads {FORMAT}; use the one that wrote it")


class KeptVersions:
    """The bits of versions that a store still has."""

    def __init__(self, store: WeightStore, verify_key: Ed25519PublicKey, journal: JournalRows, total: int) -> None:
        """`total` is the layout's. Raises Misconfigured, WeightsRefused, Unavailable."""
        head = read_head(store, verify_key)
        self._records, self._journal, self._total = Records(store, verify_key), journal, total
        self._links = {link.version: link.manifest for link in [*head.kept, *head.chain]}  # some were signed anew since the journal's

    def load(self, version: int) -> np.ndarray:
        """The bits of a version. Raises NotFound, WeightsRefused, Unavailable."""
        line = list(self._records.line(self._links.get(version) or self._journal.manifest(version)).values())
        if line[-1].version != version:
            raise BlobCorrupt(f"the manifest of version {version} is of another one")
        return self._records.restore(line, self._total).bits


def reproduce(
    journal: JournalRows,
    trainer: Trainer,
    batches: MicroBatches,
    load: Load,
    *,
    version: int,
    tensors: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Proof:
    """Redo `version` from the newest set in the folder `tensors` that was taken before it, or from the beginning.

    `progress(done, rows)` is told after each row. Raises NotFound for a version that never was; WeightsRefused where the bytes that a row
    starts from are not kept any more.
    """
    made = journal.making(version)
    if made is None:
        raise NotFound(f"there is no version {version}")
    cached = newest_set(tensors, lambda row: row < made.row and not journal.is_spoilt(row))
    first = journal.first()
    assert first is not None and first.version is not None
    trainer.refer_to(partial(load, first.version))
    trainer.reset(load(first.version))  # for the frozen values: the journal's rows and the tensors have none
    replay = Replay(journal, trainer, batches, load, cached=cached, until=version)
    if journal.is_replaced(version) or _missing(replay, batches, cached):
        return Proof(Outcome.ERASED, 0, _start(cached), erased=_missing(replay, batches, cached))
    try:
        for done, row in enumerate(replay, start=1):
            progress(done, len(replay.rows))
            if replay.is_strict(row) and FlatState(trainer.bits.copy()).digest != row.state_digest:
                return Proof(Outcome.UNEQUAL, done, _start(cached), differs=row)
    except NotFound:  # erased just now, or since a rebuild that was redone on the way
        return Proof(Outcome.ERASED, 0, _start(cached))
    return Proof(Outcome.EQUAL, len(replay.rows), _start(cached))


def _start(cached: Cached | None) -> int:
    return cached[0] if cached else 0


def _missing(replay: Replay, batches: MicroBatches, cached: Cached | None) -> int:
    """How many examples that the rows to be redone name are not kept any more; those that a rebuild left out are not missed."""
    start = _start(cached)
    rows = (row for row in replay.rows if row.kind in STEPS and row.row > start and replay.is_strict(row))
    named = {one for row in rows for one in (*row.body["new"], *row.body["replayed"])}
    return len(named) - len(batches.kept(sorted(named)))


def verdict(version: int, proof: Proof, ground: str) -> str:
    """For people; `ground` says what is different here from where the version was made."""
    began = f"from the tensors of row {proof.after}" if proof.after else "from the beginning"
    if proof.outcome is Outcome.EQUAL:
        return f"equal: version {version} redone {began}, {proof.rows} rows, has the digest that the journal recorded"
    if proof.outcome is Outcome.ERASED:
        count = f"{proof.erased} examples" if proof.erased else "examples"
        return f"{count} it learnt from were erased since, or are older than `history`, so version {version} cannot be reproduced"
    assert proof.differs is not None
    made = f"row {proof.differs.row} (version {proof.differs.version}, {proof.differs.kind})"
    return f"unequal: redone {began}, {made} is the first that leaves another state than the one recorded" + (
        f"; {ground}" if ground else ""
    )


def other_ground(made: Recipe, here: Recipe) -> str:
    """What bit equality needs and is not the same here; the number of threads is set as it was."""
    differences = [
        f"{name} was {then or 'none'} and is {now or 'none'}"
        for name, then, now in (
            ("the device", made.device, here.device),
            ("torch", made.torch, here.torch),
            ("the task data's digest", made.task_data, here.task_data),
        )
        if then != now
    ]
    return ", ".join(differences)
