"""The journal as others may read it: what became of a feedback, and which versions there are. Writes nothing."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from liveloop.errors import NotFound
from liveloop.times import timestamp
from liveloop.v1.learner_pb2 import GetFeedbackStatusResponse, Version

_POD_SILENCE = 30.0
"""Seconds after which a pod that reports every 10 s is taken for gone."""

_VERSIONS = """
SELECT rows.version, coalesce(versions.parent, 0), kind, row, coalesce(patch_bytes, 0), rows.created_at, coalesce(blessed, 0), accuracy,
  (SELECT count(*) FROM feedback WHERE feedback.version = rows.version),
  (SELECT count(*) FROM pods WHERE pods.version = rows.version AND reported_at > ?),
  versions.version IS NULL
FROM rows LEFT JOIN versions ON versions.version = rows.version
WHERE rows.version IS NOT NULL ORDER BY rows.row DESC LIMIT ?
"""


class JournalView:
    """Reads the journal through a connection of its own for every call, so that any thread may ask."""

    def __init__(self, path: Path) -> None:
        self._uri = f"{path.absolute().as_uri()}?mode=ro"

    def feedback(self, prediction_id: str, feedback_id: str) -> GetFeedbackStatusResponse:
        """What became of a feedback; of the newest one on this prediction where `feedback_id` is empty. Raises NotFound."""
        found = self._query(
            "SELECT feedback_id, state, row, version, served_at, reason, accepted_at FROM feedback"
            " WHERE prediction_id = ? AND (feedback_id = ? OR ? = '') ORDER BY accepted_at DESC LIMIT 1",
            (prediction_id, feedback_id, feedback_id),
        )
        if not found:
            raise NotFound("no such feedback has been read: it is still on its way, or was never sent", field="prediction_id")
        feedback, state, row, version, served_at, reason, accepted_at = found[0]
        return GetFeedbackStatusResponse(
            feedback_id=feedback,
            state=state,
            step=row,
            version=version,
            served_at=None if served_at is None else timestamp(served_at),
            reason=reason,
            accepted_at=timestamp(accepted_at),
        )

    def versions(self, limit: int) -> list[Version]:
        """The newest `limit` versions, newest first."""
        found = []
        for number, parent, kind, row, patch_bytes, created_at, blessed, accuracy, feedback, pods, held in self._query(
            _VERSIONS, (time.time() - _POD_SILENCE, limit)
        ):
            found.append(
                Version(
                    version=number,
                    parent=parent,
                    kind=kind,
                    step=row,
                    feedback=feedback,
                    patch_bytes=patch_bytes,
                    created_at=timestamp(created_at),
                    blessed=bool(blessed),
                    accuracy=accuracy,
                    pods=pods,
                    held=bool(held),
                )
            )
        for version in found:  # the newest that was published is the one the head names
            if not version.held:
                version.current = True
                break
        return found

    def _query(self, query: str, parameters: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
        connection = sqlite3.connect(self._uri, uri=True, timeout=5.0)
        try:
            return connection.execute(query, parameters).fetchall()
        finally:
            connection.close()
