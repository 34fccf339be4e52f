"""Live accuracy: how right the answers were that people judged lately, and what learning gained them. Knows the journal; no model.

Delayed progressive validation: each answer was computed, and logged with its version, before anybody had judged it, so that no version is
ever scored on what it had learnt from (prequential evaluation: Gama, Sebastiao, Rodrigues 2013, Machine Learning 90:317; with delayed
labels: Grzenda, Gomes, Bifet 2020, Data Mining and Knowledge Discovery 34:1237). A rating counts for what it says; default rewards and
labelled rows are nobody's judgement of an answer and do not count.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from liveloop import telemetry
from liveloop.v1.events_pb2 import CHANNEL_HOLDOUT, Channel, Source
from services.learner.intervals import Z_95, Estimate, Share, clustered_share, difference, groups
from services.learner.joiner import LIVE
from services.learner.judgements import REWARD

_NEWEST, _READ = 10_000, 50_000
"""Judgements that are looked at, so that slices of a tenth have enough; and rows of the table that are read for them at the most."""
WINDOW = 1000
"""Of these, the newest of a slice that count: a standard error of about a point and a half, and little of what was long ago."""
_FEWEST = 10
"""Judges in each arm below which no uplift is told."""
_CHANNELS = {number: (name if number else "CHANNEL_CURRENT").removeprefix("CHANNEL_").lower() for name, number in Channel.items()}
_SOURCES = {number: (name if number else "SOURCE_HUMAN").removeprefix("SOURCE_").lower() for name, number in Source.items()}
_SAID = f"""
SELECT channel, source, predictions.label, judge, {REWARD}
FROM (SELECT id, prediction_id, judge, signal, rating, label, source FROM feedback
  WHERE id > (SELECT max(id) - {_READ} FROM feedback) AND judge != x'' AND prediction_id < 'example:'
  AND +state IN ({",".join(map(str, LIVE))}) ORDER BY id DESC LIMIT {_NEWEST}) AS feedback
JOIN predictions USING (prediction_id) ORDER BY id DESC
"""  # noqa: S608  no input in it


@dataclass(frozen=True, slots=True)
class Said:
    """What one judge said of one answer."""

    channel: str  # current, blessed or holdout
    source: str  # human, expert, code or implicit
    answered: str  # the label
    judge: bytes
    right: float  # in [0, 1]


@dataclass(frozen=True, slots=True)
class Slice:
    """Judged answers that have something in common."""

    name: str  # "all", "channel:NAME", "source:NAME" or "label:NAME"
    judged: int
    judges: int
    accuracy: Estimate


def said(db: sqlite3.Connection) -> list[Said]:
    """The newest judgements as they stand, newest first: what was taken back or replaced is not among them."""
    return [
        Said(_CHANNELS.get(channel, "other"), _SOURCES.get(source, "other"), answered, judge, right)
        for channel, source, answered, judge, right in db.execute(_SAID)
    ]


def slices(judgements: Sequence[Said]) -> list[Slice]:
    """The live accuracy over all, by channel, by source and by the label that was answered. Slices that nobody judged are left out.

    Wilson's interval, with as many judgements as independent ones would leave the same error: one person's are not independent.
    """
    members: dict[str, list[Said]] = {}
    for one in judgements:
        for name in ("all", f"channel:{one.channel}", f"source:{one.source}", f"label:{one.answered}"):
            members.setdefault(name, []).append(one)
    return [_slice(name, members[name][:WINDOW]) for name in sorted(members, key=lambda name: (name != "all", name))]


def uplift(judgements: Sequence[Said]) -> Estimate | None:
    """How much more accurate answers were for those served by what was learnt than for those held out; None without enough of either.

    Both over the time in which somebody who is held out judged. Newcombe's interval of a difference, the judgements of each arm counted as
    in `slices`. People judge their own answers, and are in one arm for good; a judge of other people's makes the interval only wider.
    """
    held_out = _CHANNELS[CHANNEL_HOLDOUT]
    places = [place for place, one in enumerate(judgements) if one.channel == held_out]
    if not places:
        return None
    together = judgements[places[0] : places[-1] + 1]
    theirs = [one for one in together if one.channel == held_out]
    ours = [one for one in together if one.channel != held_out]
    if min(_judges(ours), _judges(theirs)) < _FEWEST:
        return None
    one, other = _share(ours), _share(theirs)
    return Estimate(one.value - other.value, *difference(one, other, Z_95))


def _slice(name: str, judgements: Sequence[Said]) -> Slice:
    share = _share(judgements)
    return Slice(name, len(judgements), _judges(judgements), Estimate(share.value, *share.interval(Z_95)))


def _share(judgements: Sequence[Said]) -> Share:
    return clustered_share(np.array([one.right for one in judgements]), groups([one.judge for one in judgements]))


def _judges(judgements: Iterable[Said]) -> int:
    return len({one.judge for one in judgements})


class LiveAccuracy:
    """The metrics, set again where somebody judged since."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._seen = -1  # the newest feedback then

    def refresh(self) -> None:
        """Set them."""
        newest = self._db.execute("SELECT coalesce(max(id), 0) FROM feedback").fetchone()[0]
        if newest == self._seen:
            return
        self._seen = newest
        judgements = said(self._db)
        for name in ("live_accuracy", "live_judged", "holdout_uplift"):
            telemetry.gauge(name).clear()
        for one in slices(judgements):
            telemetry.gauge("live_accuracy").labels(one.name).set(one.accuracy.value)
            telemetry.gauge("live_judged").labels(one.name).set(one.judged)
        if (gained := uplift(judgements)) is not None:
            for bound, value in (("low", gained.low), ("mean", gained.value), ("high", gained.high)):
                telemetry.gauge("holdout_uplift").labels(bound).set(value)
