"""Answers as they were logged, with what people said of them: those that a version had not learnt from. Knows the journal's tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from services.learner.evaluation import Answerer
from services.learner.intervals import groups
from services.learner.joiner import LIVE
from services.learner.judgements import REWARD
from services.learner.off_policy import Rounds

_NEWEST = 20_000
"""Judgements that are taken: minutes of computing, and an error well below a point."""
_LOGGED = f"""
SELECT text, predictions.label, propensity, {REWARD}, judge FROM feedback JOIN predictions USING (prediction_id)
WHERE judge != x'' AND feedback.prediction_id < 'example:' AND state IN ({",".join(map(str, LIVE))})
  AND feedback.id NOT IN (SELECT new.value FROM rows, json_each(rows.body, '$.new') AS new WHERE version <= ?)
ORDER BY feedback.id DESC LIMIT {_NEWEST}
"""  # noqa: S608  no input in it


@dataclass(frozen=True, slots=True)
class Logged:
    """One judgement of one answer."""

    text: str
    label: str  # what was answered
    propensity: float  # with which the policy chose it
    reward: float  # what was said of it, in [0, 1]
    judge: bytes


def logged(db: sqlite3.Connection, version: int) -> list[Logged]:
    """The newest judged answers that no step up to `version` was the first to learn from, held-out ones among them; newest first.

    A policy's reward on what it was trained on is flattery, whatever the estimator.
    """
    return [Logged(*row) for row in db.execute(_LOGGED, (version,))]


def judges(db: sqlite3.Connection, names: Iterable[str]) -> list[bytes]:
    """Who gave each of these feedbacks, by the names that `MicroBatches.held_out` gives them."""
    query = "SELECT judge FROM feedback WHERE id = ?"
    return [bytes(db.execute(query, (int(name.rpartition(":")[2]),)).fetchone()[0]) for name in names]


def rounds(found: Sequence[Logged], target: Answerer) -> Rounds:
    """The rounds for the policy that always gives the version's most probable label.

    Its probabilities are the modelled reward too: its word on how likely each label is to be called right, given without these judgements.
    """
    number = {label: number for number, label in enumerate(target.labels)}
    probabilities_NK = target.probabilities([one.text for one in found])
    return Rounds(
        np.array([number[one.label] for one in found], dtype=np.int64),
        np.array([one.propensity for one in found]),
        np.array([one.reward for one in found]),
        np.eye(len(number))[probabilities_NK.argmax(axis=1)],
        probabilities_NK,
        groups([one.judge for one in found]),
    )
