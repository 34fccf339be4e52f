"""Reads from the journal what the pace of learning follows, and writes its changes there. Knows tables; pacing.py decides.

A restart reads what came since the last change again, so that it decides as if it had not been away.
"""

from __future__ import annotations

import json

from liveloop import telemetry
from liveloop.v1.events_pb2 import CHANNEL_CURRENT, CHANNEL_UNSPECIFIED
from services.learner.joiner import LIVE
from services.learner.journal import Journal
from services.learner.judgements import REWARD
from services.learner.pacing import Change, Pacing, PageHinkley, Scores
from services.learner.trainer import Recipe

_SPLITS = ("task", "feedback")
"""A user's own slices say how a version does on something in particular, not whether it goes on learning."""
_JUDGED = f"""
SELECT id, {REWARD} FROM feedback JOIN predictions USING (prediction_id)
WHERE id > ? AND judge != x'' AND prediction_id < 'example:' AND +state IN ({",".join(map(str, LIVE))})
AND channel IN ({CHANNEL_UNSPECIFIED}, {CHANNEL_CURRENT}) ORDER BY id LIMIT 1000
"""  # noqa: S608  no input in it
_EVALUATED = """
SELECT version, scores, coalesce((SELECT id FROM feedback WHERE feedback.version BETWEEN 1 AND evaluations.version
  ORDER BY feedback.version DESC LIMIT 1), 0) FROM evaluations WHERE version > ? ORDER BY version
"""
_LAST = "SELECT row, recipe, json_extract(body, '$.rate') FROM rows WHERE kind = 'note' AND json_extract(body, '$.decision') = 'pace'"

_log = telemetry.logger(part="pace")


class Pacemaker:
    """The factor on the learning rate, as of now."""

    def __init__(self, journal: Journal, recipe: Recipe) -> None:
        """Go on from the last change; a learning rate that was set anew begins at its full height."""
        self._journal = journal
        self._recipe = recipe
        last = journal.db.execute(f"{_LAST} ORDER BY row DESC LIMIT 1").fetchone()
        row, digest, rate = last or (0, "", 1.0)
        if last and journal.recipe(digest).learning_rate != recipe.learning_rate:
            rate = 1.0
        self._pacing = Pacing(rate)
        self._evaluated = self._version_before(row)
        self._judged = max(0, journal.db.execute("SELECT coalesce(max(id), 0) FROM feedback").fetchone()[0] - PageHinkley.MEMORY)
        telemetry.gauge("learner_rate").set(rate)

    @property
    def rate(self) -> float:
        """In (0, 1]."""
        return self._pacing.rate

    def look(self) -> None:
        """Take in what was judged and evaluated since the last look. Call it before each step."""
        while found := self._journal.db.execute(_JUDGED, (self._judged,)).fetchall():
            for one, right in found:
                self._judged = one
                self._note(self._pacing.judged(right))
        if (reset := self._journal.last_reset()) > self._evaluated:
            self._evaluated = reset - 1
            self._pacing.begin_anew()
        for version, text, at in self._journal.db.execute(_EVALUATED, (self._evaluated,)).fetchall():
            self._evaluated = version
            scores = {split: (one["accuracy"], one["rows"]) for split, one in json.loads(text).items() if split in _SPLITS}
            self._note(self._pacing.evaluated(Scores(at, scores)))

    def _note(self, change: Change | None) -> None:
        if change is None:
            return
        _log.info("the learning rate changes", factor=change.rate, reason=change.why)
        self._journal.note("pace", self._recipe, who="learner", why=change.why, rate=change.rate)
        telemetry.gauge("learner_rate").set(change.rate)

    def _version_before(self, row: int) -> int:
        found = self._journal.db.execute("SELECT max(version) FROM rows WHERE row < ? AND version IS NOT NULL", (row,)).fetchone()
        return int(found[0] or 0)
