"""Where a version came from and what was decided about it, from the journal. Writes nothing; knows no weights."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from liveloop.times import timestamp
from liveloop.v1.learner_pb2 import Decision, FeedbackName, GetVersionResponse, LearntFeedback, Version
from services.learner.lineage import is_in, resets, standing

_LISTED = 1000
"""Feedbacks that are named; the rest is counted in `Version.feedback`."""
_LOSSES = ("task_loss", "feedback_loss", "kl_loss", "gradient_norm")
_ROW = """
SELECT kind, rows.body, state_digest, rows.created_at, recipes.body, coalesce(signer, '')
FROM rows JOIN recipes ON recipes.digest = recipe LEFT JOIN versions USING (version) WHERE rows.version = ?
"""
_NOTES = """
SELECT json_extract(body, '$.decision'), json_extract(body, '$.who'), json_extract(body, '$.why'), created_at
FROM rows WHERE kind = 'note' AND json_extract(body, '$.version') = ? ORDER BY row
"""
_EVALUATION = "SELECT passed, why, evaluated_at, blessed_at FROM versions LEFT JOIN evaluations USING (version) WHERE version = ?"
_HELD_BACK = "SELECT passed, why, evaluated_at, NULL FROM evaluations WHERE version = ?"
_RESETS_SINCE = """
SELECT row, version, json_extract(body, '$.to'), json_extract(body, '$.who'), json_extract(body, '$.why'), created_at
FROM rows WHERE kind = 'reset' AND row > ? ORDER BY row
"""


def provenance(db: sqlite3.Connection, version: Version) -> GetVersionResponse:
    """All that the journal knows of `version`."""
    number = version.version
    kind, text, digest, created_at, recipe, signer = db.execute(_ROW, (number,)).fetchone()
    body = json.loads(text)
    new = body.get("new")
    named = list(_named(db, new[:_LISTED])) if new is not None else list(_first_in(db, number))
    return GetVersionResponse(
        version=version,
        feedback=[feedback for _, feedback in named],
        erased=_gone(db, new or ()),
        replayed=len(body.get("replayed", ())),
        task_rows=body.get("task", ()),
        recipe=recipe,
        losses={name: body[name] for name in _LOSSES if name in body},
        decisions=sorted(
            [
                *_replaced(db, version.step),
                *_own(kind, body, created_at),
                *_evaluated(db, number),
                *_noted(db, number),
                *_undone(db, version),
            ],
            key=lambda decision: decision.decided_at.ToNanoseconds(),
        ),
        state_digest=digest.hex(),
        signer=signer,
    )


def _named(db: sqlite3.Connection, ids: Sequence[int]) -> Iterator[tuple[int, LearntFeedback]]:
    """Those that are still kept, in their order in the step."""
    for one in ids:
        found = db.execute("SELECT id, prediction_id, feedback_id, signal, state FROM feedback WHERE id = ?", (one,)).fetchone()
        if found is not None:
            yield _learnt(found)


def _first_in(db: sqlite3.Connection, version: int) -> Iterator[tuple[int, LearntFeedback]]:
    """What a version that no step made includes again: after a rollback to what had been undone, or a rebuild."""
    query = "SELECT id, prediction_id, feedback_id, signal, state FROM feedback WHERE version = ? ORDER BY id LIMIT ?"
    return map(_learnt, db.execute(query, (version, _LISTED)).fetchall())


def _learnt(found: tuple[Any, ...]) -> tuple[int, LearntFeedback]:
    one, prediction_id, feedback_id, signal, state = found
    name = FeedbackName(prediction_id=prediction_id, feedback_id=feedback_id)
    return one, LearntFeedback(feedback=name, signal=signal, state=state)


def _gone(db: sqlite3.Connection, ids: Sequence[int]) -> int:
    """How many of these are not kept any more."""
    query = "SELECT count(*) FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM feedback WHERE id = json_each.value)"
    return int(db.execute(query, (json.dumps(list(ids)),)).fetchone()[0])


def _own(kind: str, body: dict[str, Any], created_at: float) -> Iterator[Decision]:
    """A version that a decision made."""
    if kind == "reset":
        yield _decision("rollback", body["who"], f"back to version {body['to']}: {body['why']}", created_at)
    elif kind == "rebase":
        yield _decision("rebase", body.get("who", "learner"), body["why"], created_at)


def _evaluated(db: sqlite3.Connection, version: int) -> Iterator[Decision]:
    """The guard's word, and the blessing where no operator gave it."""
    found = db.execute(_EVALUATION, (version,)).fetchone() or db.execute(_HELD_BACK, (version,)).fetchone()
    if found is None:
        return
    passed, why, evaluated_at, blessed_at = found
    if evaluated_at is not None:
        yield _decision("pass" if passed else "watch", "guard", why, evaluated_at)
    if blessed_at is not None and not any(one.decision == "promote" for one in _noted(db, version)):
        yield _decision("bless", "guard" if passed else "learner", "it passed the full evaluation" if passed else "", blessed_at)


def _noted(db: sqlite3.Connection, version: int) -> Iterator[Decision]:
    """What operators and the canary ordered."""
    for decision, who, why, created_at in db.execute(_NOTES, (version,)).fetchall():
        yield _decision(decision, who or "learner", why or "", created_at)


def _undone(db: sqlite3.Connection, version: Version) -> Iterator[Decision]:
    """The rollbacks that undid it, and those that went back to it."""
    all_resets, stood = resets(db), True
    for row, made, to, who, why, created_at in db.execute(_RESETS_SINCE, (version.step,)).fetchall():
        stands = is_in(standing(all_resets, row), version.step)
        if to == version.version:
            yield _decision("return", who, f"version {made} has its weights: {why}", created_at)
        elif stood and not stands:
            yield _decision("rollback", who, f"undone by version {made}, back to version {to}: {why}", created_at)
        stood = stands


def _replaced(db: sqlite3.Connection, row: int) -> Iterator[Decision]:
    """The rebuild that it made way for."""
    query = "SELECT version, body, created_at FROM rows WHERE kind = 'rebase' AND json_extract(body, '$.first') <= ? AND row > ?"
    for made, text, created_at in db.execute(query, (row, row)).fetchall():
        body = json.loads(text)
        yield _decision("replace", body["who"], f"by version {made}: {body['why']}", created_at)


def _decision(decision: str, who: str, why: str, seconds: float) -> Decision:
    return Decision(decision=decision, who=who, why=why, decided_at=timestamp(seconds))
