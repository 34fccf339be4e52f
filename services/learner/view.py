"""The journal as others may read it: what became of a feedback, which versions there are, what is set aside. Writes nothing."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from liveloop.errors import NotFound
from liveloop.times import timestamp
from liveloop.v1.learner_pb2 import (
    DeadLetter,
    GetDeadLetterResponse,
    GetFeedbackStatusResponse,
    GetFeedbackSummaryResponse,
    GetVersionResponse,
    ListDeadLettersResponse,
    ListQuarantineResponse,
    QuarantinedFeedback,
    SplitScore,
    Version,
    VersionState,
)
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.lineage import Span, is_in, resets, standing
from services.learner.provenance import provenance
from services.learner.rows import rebuilds
from services.learner.summary import summary

_POD_SILENCE = 30.0
"""Seconds after which a pod that reports every 10 s is taken for gone."""

_NEWEST = 1 << 62
"""A row after all rows."""

_VERSIONS = """
SELECT rows.version, coalesce(versions.parent, 0), kind, row, coalesce(json_array_length(body, '$.new'), 0), coalesce(patch_bytes, 0),
  rows.created_at, blessed_at IS NOT NULL, coalesce(scores, '{}'),
  (SELECT count(*) FROM pods WHERE rows.version IN (pods.version, pods.blessed) AND reported_at > ?),
  versions.version IS NOT NULL, EXISTS (SELECT 1 FROM pins WHERE pins.version = rows.version)
FROM rows LEFT JOIN versions ON versions.version = rows.version LEFT JOIN evaluations ON evaluations.version = rows.version
WHERE rows.version IS NOT NULL AND (? = 0 OR rows.version = ?) ORDER BY rows.row DESC LIMIT ?
"""
_QUARANTINE = """
SELECT prediction_id, feedback_id, signal, reason, row, accepted_at FROM feedback WHERE state = ? ORDER BY accepted_at DESC LIMIT ?
"""

_DEAD_LETTERS = "SELECT id, partition, position, reason, length(content), set_aside_at FROM dead_letters"


class JournalView:
    """Reads the journal through a connection of its own for every call, so that any thread may ask."""

    def __init__(self, path: Path, *, canary_share: float = 1.0) -> None:
        """`canary_share` below 1: the current version is served to that share alone until it is blessed."""
        self._canary_share = canary_share
        self._uri = f"{path.absolute().as_uri()}?mode=ro"

    def feedback(self, prediction_id: str, feedback_id: str) -> GetFeedbackStatusResponse:
        """What became of a feedback; of the newest one on this prediction where `feedback_id` is empty. Raises NotFound."""
        with self._open() as db:
            found = db.execute(
                "SELECT feedback_id, state, row, version, served_at, reason, accepted_at FROM feedback"
                " WHERE prediction_id = ? AND (feedback_id = ? OR ? = '') ORDER BY accepted_at DESC LIMIT 1",
                (prediction_id, feedback_id, feedback_id),
            ).fetchone()
        if found is None:
            raise NotFound("no such feedback has been read: it is still on its way, or was never sent", field="prediction_id")
        feedback, state, row, version, served_at, reason, accepted_at = found
        return GetFeedbackStatusResponse(
            feedback_id=feedback,
            state=state,
            step=row,
            version=version,
            served_at=None if served_at is None else timestamp(served_at),
            reason=reason,
            accepted_at=timestamp(accepted_at),
        )

    def summary(self) -> GetFeedbackSummaryResponse:
        """How much feedback is in each state, and which reasons people gave."""
        with self._open() as db:
            return summary(db)

    def versions(self, limit: int) -> list[Version]:
        """The newest `limit` versions, newest first."""
        with self._open() as db:
            return self._versions(db, limit=limit)

    def version(self, number: int) -> GetVersionResponse:
        """Where one version came from and what was decided about it. Raises NotFound."""
        with self._open() as db:
            found = self._versions(db, number=number, limit=1)
            if not found:
                raise NotFound(f"there is no version {number}", field="version")
            return provenance(db, found[0])

    def _versions(self, db: sqlite3.Connection, *, limit: int, number: int = 0) -> list[Version]:
        """All of them, or the one of this `number`."""
        found = db.execute(_VERSIONS, (time.time() - _POD_SILENCE, number, number, limit)).fetchall()
        lineage = standing(resets(db), _NEWEST)
        current = db.execute("SELECT max(version) FROM versions").fetchone()[0]
        return [self._version(row, lineage, rebuilds(db), current) for row in found]

    def _version(self, row: tuple[Any, ...], lineage: Sequence[Span], replaced: Sequence[Span], current: int | None) -> Version:
        number, parent, kind, step, feedback, patch_bytes, created_at, blessed, found, pods, published, pinned = row
        scores = [SplitScore(split=split, **score) for split, score in json.loads(found).items()]
        version = Version(
            version=number,
            parent=parent,
            kind=kind,
            step=step,
            feedback=feedback,
            patch_bytes=patch_bytes,
            created_at=timestamp(created_at),
            blessed=bool(blessed),
            current=number == current,  # the newest that was published is the one the head names
            accuracy=next((score.accuracy for score in scores if score.split == "task"), None),
            pods=pods,
            held=not published,
            pinned=bool(pinned),
            scores=scores,
        )
        version.state = self._state(version, undone=not is_in(lineage, step))
        if any(first <= step < rebuilt for first, rebuilt in replaced):
            version.state = VersionState.VERSION_STATE_REPLACED
        return version

    def _state(self, version: Version, *, undone: bool) -> VersionState.ValueType:
        if undone:
            return VersionState.VERSION_STATE_ROLLED_BACK
        if version.held:
            return VersionState.VERSION_STATE_HELD
        if version.blessed:
            return VersionState.VERSION_STATE_BLESSED
        on_canary = version.current and self._canary_share < 1.0
        return VersionState.VERSION_STATE_CANARY if on_canary else VersionState.VERSION_STATE_PUBLISHED

    def quarantine(self, limit: int) -> ListQuarantineResponse:
        """The newest `limit` feedbacks that are set aside, newest first, and how many there are in all."""
        state = State.FEEDBACK_STATE_QUARANTINED
        with self._open() as db:
            found = db.execute(_QUARANTINE, (state, limit)).fetchall()
            total = db.execute("SELECT count(*) FROM feedback WHERE state = ?", (state,)).fetchone()[0]
        return ListQuarantineResponse(
            feedback=[
                QuarantinedFeedback(
                    prediction_id=prediction_id,
                    feedback_id=feedback_id,
                    signal=signal,
                    reason=reason,
                    step=row,
                    accepted_at=timestamp(accepted_at),
                )
                for prediction_id, feedback_id, signal, reason, row, accepted_at in found
            ],
            total=total,
        )

    def dead_letters(self, limit: int) -> ListDeadLettersResponse:
        """The newest `limit` records that could not be read, newest first, and how many there are in all."""
        with self._open() as db:
            found = db.execute(f"{_DEAD_LETTERS} ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
            total = db.execute("SELECT count(*) FROM dead_letters").fetchone()[0]
        return ListDeadLettersResponse(dead_letters=[_dead_letter(*row) for row in found], total=total)

    def dead_letter(self, number: int) -> GetDeadLetterResponse:
        """One of them with its bytes. Raises NotFound."""
        with self._open() as db:
            known = min(number, _NEWEST)
            found = db.execute(f"{_DEAD_LETTERS} WHERE id = ?", (known,)).fetchone()
            if found is None:
                raise NotFound(f"there is no dead letter {number}: it was read again, or went as one of too many", field="id")
            content = db.execute("SELECT content FROM dead_letters WHERE id = ?", (known,)).fetchone()[0]
        return GetDeadLetterResponse(dead_letter=_dead_letter(*found), content=content)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._uri, uri=True, timeout=5.0)
        try:
            yield connection
        finally:
            connection.close()


def _dead_letter(number: int, partition: int, position: int, reason: str, size: int, set_aside_at: float) -> DeadLetter:
    return DeadLetter(id=number, partition=partition, position=position, reason=reason, bytes=size, set_aside_at=timestamp(set_aside_at))
