"""What became of versions, and who decided it. Knows the journal's tables; writes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from liveloop.v1.learner_pb2 import FeedbackState as State
from services.learner.lineage import Span, resets, standing, without
from services.learner.rows import rebuilds

_LISTED = 50
"""Decisions and reasons that are listed: the newest, or the commonest."""
_DECISIONS = """
SELECT created_at, kind, coalesce(version, json_extract(body, '$.version'), 0), body FROM rows
WHERE kind IN ('note', 'reset', 'rebase') ORDER BY row DESC LIMIT ?
"""
_BY_DECISION = """
SELECT CASE kind WHEN 'note' THEN json_extract(body, '$.decision') WHEN 'reset' THEN 'rollback' ELSE 'rebuild' END AS decision, count(*)
FROM rows WHERE kind IN ('note', 'reset', 'rebase') GROUP BY decision ORDER BY count(*) DESC
"""
_KINDS = "SELECT kind, count(*) FROM rows WHERE version IS NOT NULL GROUP BY kind ORDER BY count(*) DESC"
_PASSED = "SELECT coalesce(sum(passed), 0), count(*) FROM evaluations"
_SET_ASIDE = "SELECT reason, count(*) FROM feedback WHERE state = ? GROUP BY reason ORDER BY count(*) DESC, reason LIMIT ?"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision and why it was taken."""

    at: float  # Unix seconds
    decision: str
    version: int  # that it was about or that it made; 0: none
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Fates:
    """Counts over all versions, and the newest decisions."""

    kinds: Mapping[str, int]  # versions by the kind of row that made them
    published: int
    blessed: int
    undone: int
    replaced: int
    passed: int  # evaluations that may bless
    evaluated: int
    by_decision: Mapping[str, int]
    decisions: Sequence[Decision]
    set_aside: Sequence[tuple[str, int]]  # why feedback is in quarantine, and how much


def read_fates(db: sqlite3.Connection) -> Fates:
    """What stands is counted over the spans of rows that resets and rebuilds left."""
    everything = [(0, 1 << 62)]
    undone = without(everything, standing(resets(db), 1 << 62))
    gone = [(first - 1, last - 1) for first, last in rebuilds(db)]
    published, blessed = db.execute("SELECT count(*), count(blessed_at) FROM versions").fetchone()
    passed, evaluated = db.execute(_PASSED).fetchone()
    return Fates(
        kinds=dict(db.execute(_KINDS).fetchall()),
        published=published,
        blessed=blessed,
        undone=_versions_in(db, without(undone, gone)),
        replaced=_versions_in(db, without(everything, without(everything, gone))),
        passed=passed,
        evaluated=evaluated,
        by_decision=dict(db.execute(_BY_DECISION).fetchall()),
        decisions=[_decision(*found) for found in db.execute(_DECISIONS, (_LISTED,))],
        set_aside=db.execute(_SET_ASIDE, (State.FEEDBACK_STATE_QUARANTINED, _LISTED)).fetchall(),
    )


def _versions_in(db: sqlite3.Connection, spans: Iterable[Span]) -> int:
    query = "SELECT count(version) FROM rows WHERE row > ? AND row <= ?"
    return sum(db.execute(query, span).fetchone()[0] for span in spans)


def _decision(at: float, kind: str, version: int, text: str) -> Decision:
    body = json.loads(text)
    name = str(body["decision"]) if kind == "note" else {"reset": "rollback", "rebase": "rebuild"}[kind]
    return Decision(at, name, version, str(body.get("who") or "learner"), str(body.get("why") or ""))
