"""The full evaluation beside training: which version is next, against which others, on which rows. Knows journal and publication.

The newest version meets the blessed one and the anchor, which stands for what was blessed an hour ago. All three answer the same rows,
those of now: of each only the answers that are not known yet are computed. A probe of a few rows comes before, so that a version that is
glaringly bad is found within seconds, however long a full evaluation takes.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from liveloop import telemetry
from liveloop.errors import NotFound, WeightsRefused
from services.learner.evaluator import Evaluator, Rows
from services.learner.journal import Journal
from services.learner.micro_batch import MicroBatches
from services.learner.publication import Publication
from services.learner.trainer import Trainer
from services.learner.verdict import EARLIER, Answers, Comparison, Decision, Verdict, Verdicts, compare, split_of
from services.learner.versions import ANCHOR_AGE, Score

SLICE = 16
"""Rows in one slice: about 0.1 s of MiniLM on two cores, the most that a thumb waits for it."""
PROBE = 48
"""Rows that show a collapse: of 48, 17 more wrong answers and no better one are four standard errors."""
_PROBE_INTERVAL = 2.0
"""Seconds from the end of a probe to the next: what lies between belongs to the full evaluation."""
_SHARE = 0.25
"""Of the learner's time, while feedback waits."""
_CREDIT_LIMIT = 1.0
"""Seconds of evaluation that busy times can save up, and that quiet times can overdraw."""
_HELD_OUT_ROWS = 500
"""Newest held-out feedbacks in an evaluation: a standard error of 2 points."""

_log = telemetry.logger(part="examiner")


@dataclass(slots=True)
class _Contestant:
    version: int
    trained: np.ndarray  # its served bits without the frozen ones
    right: dict[str, bool] = field(default_factory=dict)  # what it answered so far, by row


@dataclass(frozen=True, slots=True)
class _Examination:
    """One version against others on some rows."""

    candidate: _Contestant
    others: tuple[_Contestant, ...]
    rows: Rows
    order: tuple[str, ...]  # in which they are answered
    is_probe: bool
    blessed: int
    earlier: tuple[Answers, ...]  # of the versions that were blessed before

    def next(self) -> tuple[_Contestant, Rows] | None:
        """Who answers which rows next: all advance together, the others ahead. None once all have answered all."""
        behind = [(places, one) for one in (*self.others, self.candidate) if (places := self._missing(one))]
        if not behind:
            return None
        places, one = min(behind, key=lambda found: found[0][0])
        return one, {self.order[place]: self.rows[self.order[place]] for place in places}

    def _missing(self, one: _Contestant) -> list[int]:
        """The places of the first rows that `one` has not answered, a slice at the most."""
        return list(islice((place for place, name in enumerate(self.order) if name not in one.right), SLICE))

    def against(self) -> dict[int, Comparison]:
        """How the candidate compares on what was answered so far."""
        answered = self.right(self.candidate)
        return {
            other.version: compare(answered, other.right, self.earlier if other.version == self.blessed else ()) for other in self.others
        }

    def right(self, one: _Contestant) -> dict[str, bool]:
        """What `one` answered of these rows."""
        return {name: one.right[name] for name in self.rows if name in one.right}

    def scores(self) -> dict[str, Score]:
        """The candidate's accuracy by split."""
        found: dict[str, list[bool]] = {}
        for name, right in self.right(self.candidate).items():
            found.setdefault(split_of(name), []).append(right)
        return {split: Score(sum(right) / len(right), len(right)) for split, right in found.items()}


class Examiner:
    """Probes and evaluates the newest version, slice by slice; says when it must be taken back."""

    def __init__(self, evaluator: Evaluator, journal: Journal, batches: MicroBatches, trainer: Trainer, publication: Publication) -> None:
        evaluator.reset(publication.publisher.state.bits)
        self._evaluator = evaluator
        self._journal = journal
        self._batches = batches
        self._trainer = trainer
        self._publication = publication
        self._verdicts = Verdicts()
        self._known: dict[int, _Contestant] = {}
        self._earlier: deque[Answers] = deque(maxlen=EARLIER)  # of versions blessed before the one that is, one after the other
        self._full: _Examination | None = None
        self._probe: _Examination | None = None
        self._evaluated = self._probed = 0  # the last versions that were
        self._probe_ended = 0.0
        self._credit = 0.0  # seconds it may take while feedback waits

    def earn(self, seconds: float) -> None:
        """A step took so long: the evaluation may take its share."""
        self._credit = min(_CREDIT_LIMIT, self._credit + seconds * _SHARE / (1 - _SHARE))

    @property
    def has_credit(self) -> bool:
        """A slice may be taken although feedback waits."""
        return self._credit > 0.0

    @property
    def has_work(self) -> bool:
        """An evaluation is under way, or the newest version has not been evaluated."""
        return self._full is not None or self._newest() != self._evaluated

    @property
    def needs(self) -> list[int]:
        """Versions that must not be collected meanwhile."""
        return list(self._known)

    def turn(self) -> Verdict | None:
        """One slice. A rollback, where that is what follows; the caller carries it out."""
        started = time.monotonic()
        try:
            return self._slice()
        finally:
            self._credit = max(-_CREDIT_LIMIT, self._credit - (time.monotonic() - started))

    def begin_again(self) -> None:
        """Another version may be the blessed one now: what is under way is asked again, with the answers that are known."""
        self._full = self._probe = None
        self._earlier.clear()

    def begin_anew(self, version: int, like: int) -> None:
        """Serve `version` with the bytes of `like`: what was under way is about weights that are undone."""
        self._verdicts.begin_anew()
        self._earlier.clear()
        self._full = self._probe = None
        same = self._known.get(like)
        self._known = {version: _Contestant(version, same.trained, same.right)} if same is not None else {}

    def _slice(self) -> Verdict | None:
        self._full = self._full or self._begin(self._newest())
        if self._probe is None and self._is_probe_due():
            self._probe = self._begin(self._newest(), rows=PROBE)
        under_way = self._probe or self._full
        if (work := under_way.next()) is not None:
            one, rows = work
            one.right.update(self._evaluator.answer(one.trained, rows))
            if verdict := self._verdicts.at_once(under_way.against()):
                return self._note(verdict, under_way)
        if under_way.next() is not None:
            return None
        if under_way.is_probe:
            self._probe, self._probed, self._probe_ended = None, under_way.candidate.version, time.monotonic()
            self._forget_all_but(self._full)
            return None
        verdict = self._decide(under_way)
        self._full, self._evaluated = None, under_way.candidate.version  # not before: what cannot be published now is decided again
        return verdict

    def _is_probe_due(self) -> bool:
        assert self._full is not None
        seen = {self._full.candidate.version, self._probed, self._evaluated}
        return self._newest() not in seen and time.monotonic() - self._probe_ended > _PROBE_INTERVAL

    def _begin(self, version: int, *, rows: int | None = None) -> _Examination:
        """An examination of the newest version on the first `rows` rows; on all of them, and against the anchor too, without."""
        held_out = self._batches.held_out(_HELD_OUT_ROWS)
        chosen = dict(islice(self._evaluator.rows(held_out).items(), rows))
        candidate = self._contestant(version)
        assert candidate is not None
        anchor = self._journal.anchor(ANCHOR_AGE) if rows is None else None
        blessed = self._publication.blessed
        others = tuple(self._contestant(other) for other in dict.fromkeys((blessed, anchor)) if other and other != version)
        examination = _Examination(
            candidate, tuple(one for one in others if one), chosen, tuple(chosen), rows is not None, blessed, tuple(self._earlier)
        )
        if rows is None:
            self._forget_all_but(examination)
            for one in self._known.values():
                one.right = examination.right(one)
        return examination

    def _forget_all_but(self, examination: _Examination) -> None:
        self._known = {one.version: one for one in (*examination.others, examination.candidate)}

    def _contestant(self, version: int) -> _Contestant | None:
        """As it is known, or with its bits; None where they cannot be read any more."""
        if (known := self._known.get(version)) is not None:
            return known
        try:
            bits = self._trainer.bits if version == self._newest() else self._publication.load(version)
        except (NotFound, WeightsRefused) as error:
            _log.error("a version to compare with cannot be read", version=version, reason=error.reason)
            return None
        return self._known.setdefault(version, _Contestant(version, self._evaluator.trained(bits)))

    def _decide(self, done: _Examination) -> Verdict | None:
        version, scores, against = done.candidate.version, done.scores(), done.against()
        for split, score in scores.items():
            telemetry.gauge("evaluation_score").labels("accuracy", split).set(score.accuracy)
        verdict = self._verdicts.after_all(len(done.rows), against)
        if self._publication.blessed not in (version, *against):
            verdict = Verdict(Decision.WATCH)  # its bytes cannot be read: what was not compared with it does not take its place
        passed = verdict.decision is Decision.BLESS
        why = "; ".join(f"{one.words} against version {other}" for other, one in against.items())
        self._journal.evaluated(version, scores, passed=passed, why=why)
        if passed:
            self._publication.passed(version, done.candidate.trained)
            if self._publication.blessed == version:
                self._earlier.extend(done.right(one) for one in done.others if one.version == done.blessed)
        return self._note(verdict, done)

    def _note(self, verdict: Verdict, done: _Examination) -> Verdict | None:
        if verdict.decision is not Decision.ROLLBACK:
            telemetry.counter("guard_decisions_total").labels(verdict.decision.value).inc()
            return None
        _log.warning("a version is to be taken back", version=done.candidate.version, reason=verdict.why)
        return verdict

    def _newest(self) -> int:
        row = self._journal.last()
        return row.version if row is not None and row.version is not None else 0
