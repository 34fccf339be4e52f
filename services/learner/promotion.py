"""The canary beside training: what users of two channels said, and the promotion or rollback that follows. Knows journal and publication.

Counted are the answers of the blessed version in its channel, and in the current one's those of versions made after it, and after the last
reset: so the evidence begins anew whenever the blessed version moves or weights are taken back.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from liveloop import telemetry
from liveloop.weights.channels import Channel
from services.learner.canary import Decision, Finding, Judgement, Work, decide
from services.learner.joiner import LIVE
from services.learner.journal import By, Journal
from services.learner.judgements import REWARD
from services.learner.publication import Publication

_LOOK_EVERY = 5.0
"""Seconds between two looks: a look at a full window takes some hundredths of a second."""
_NEWEST = 10_000
"""Feedbacks that are looked at: with a canary of a tenth a thousand of them are of the current version."""
_JUDGED_WITHIN = 24 * 3600.0
"""Seconds for which a judgement counts: longer, and the current channel's would be of weights long gone."""
_WORKED_WITHIN = 1800.0
"""Seconds for which a pod's report counts."""
_CHANNELS = f"(channel = {Channel.CURRENT} AND answered_by > :after OR channel = {Channel.BLESSED} AND answered_by = :blessed)"
_JUDGEMENTS = f"""
SELECT channel, judge, 1 - ({REWARD}) FROM (SELECT id, prediction_id, judge, signal, rating, label, state FROM feedback
  WHERE judge != x'' ORDER BY id DESC LIMIT {_NEWEST}) AS feedback -- without default rewards: nobody's judgement
JOIN (SELECT prediction_id, channel, version AS answered_by, label, created_at FROM predictions) AS predictions USING (prediction_id)
WHERE state IN ({",".join(map(str, LIVE))}) AND created_at > :since AND {_CHANNELS} ORDER BY id DESC
"""  # noqa: S608  no input in it
_WORK = f"""
SELECT channel, sum(answered), sum(failed), sum(batches), sum(seconds) FROM (SELECT *, version AS answered_by FROM work)
WHERE reported_at > :since AND {_CHANNELS} GROUP BY channel
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Between:
    """Whose answers count."""

    blessed: int
    after: int  # versions of the current channel above this one


def judgements(db: sqlite3.Connection, between: Between, since: float) -> list[Judgement]:
    """What was said of answers given after `since`, Unix seconds; newest first."""
    found = db.execute(_JUDGEMENTS, {"blessed": between.blessed, "after": between.after, "since": since})
    return [Judgement(Channel(channel), judge, down) for channel, judge, down in found]


def work(db: sqlite3.Connection, between: Between, since: float) -> dict[Channel, Work]:
    """What pods reported after `since`, Unix seconds."""
    found = db.execute(_WORK, {"blessed": between.blessed, "after": between.after, "since": since})
    return {Channel(channel): Work(*sums) for channel, *sums in found}


class Promotion:
    """Looks now and then; blesses what users prefer, says when they are served worse."""

    def __init__(
        self, journal: Journal, publication: Publication, promote: Callable[[int, By], object], *, clock: Callable[[], float] = time.time
    ) -> None:
        """`promote(version, by)` blesses it; `clock` is Unix seconds."""
        self._journal = journal
        self._publication = publication
        self._promote = promote
        self._clock = clock
        self._look_at = 0.0
        telemetry.announce("guard_decisions_total")

    def turn(self) -> str:
        """Promote, where users say so. Why the current version must be taken back, or nothing."""
        if self._clock() < self._look_at or not self._publication.has_canary:
            return ""
        finding = self._look()
        self._look_at = self._clock() + _LOOK_EVERY
        if finding.decision is Decision.PROMOTE:
            self._bless(finding)
        return finding.why if finding.decision is Decision.ROLLBACK else ""

    def _look(self) -> Finding:
        blessed, now = self._publication.blessed, self._clock()
        between = Between(blessed, after=max(blessed, self._journal.last_reset() - 1))
        said = judgements(self._journal.db, between, now - _JUDGED_WITHIN)
        return decide(said, work(self._journal.db, between, now - _WORKED_WITHIN))

    def _bless(self, finding: Finding) -> None:
        """Promote the newest version that passed the full evaluation, if it still stands and is kept."""
        version = self._publication.candidate
        if version > self._publication.blessed and not self._journal.is_undone(version) and self._publication.publisher.keeps(version):
            self._promote(version, By("canary", finding.why))
            telemetry.counter("guard_decisions_total").labels("promote").inc()
            telemetry.logger(part="canary").info("promoted", version=version, reason=finding.why)
