"""Brings the log's events into the journal; stops before a gap until an operator accepts it. Knows log and journal, not what is learnt."""

from __future__ import annotations

import time
from collections.abc import Sequence

from liveloop import crash, telemetry
from liveloop.errors import NotNow, Unavailable
from liveloop.events import EventLog, Gap, LogTruncated
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from services.learner.trainer import Recipe

_READ_AGAIN = 1.0
"""Seconds before a log that is away is asked again."""
_LOOK_AGAIN = 10.0
"""Seconds before a log with a gap is looked at again: a broker may have been restored."""
RECORDS = 64
"""Records read at once: each is a group commit, and the lease is renewed between two reads."""

_log = telemetry.logger(part="reader")


class Reader:
    """Reads from where the journal stands."""

    def __init__(self, log: EventLog, journal: Journal, joiner: Joiner) -> None:
        self._log = log
        self._journal = journal
        self._joiner = joiner
        self._read_again_at = 0.0
        self._gaps: tuple[Gap, ...] = ()

    def read(self, timeout: float, *, note_end: bool = False) -> None:
        """Take in what the log has, waiting up to `timeout` seconds; while it cannot be read, what was read before is worked on.

        `note_end`: record also that its end was reached with nothing new, which passes the time.
        """
        if time.monotonic() < self._read_again_at:
            return
        try:
            page = self._log.read(self._journal.positions(), limit=RECORDS, timeout=timeout)
        except Unavailable as error:
            _log.warning("the event log cannot be reached; going on with what was read", reason=error.reason)
            self._read_again_at = time.monotonic() + _READ_AGAIN
            return
        except LogTruncated as error:
            self._stop_before(error)
            return
        self._gaps = ()
        telemetry.gauge("learner_gap").set(0)
        if page.records:
            crash.point("after-read")
        if page.records or note_end:
            self._journal.ingest(page, self._joiner)
            crash.point("after-ingest")

    def accept_gap(self, recipe: Recipe, *, who: str, why: str) -> tuple[Gap, ...]:
        """Go on behind what is missing, and say so in the journal. Returns what was passed over. Raises NotNow without a gap."""
        gaps = self._gaps
        if not gaps:
            raise NotNow("nothing is missing in the event log")
        self._journal.pass_over(gaps, recipe, who=who, why=why)
        self._gaps, self._read_again_at = (), 0.0
        return gaps

    def retry(self, ids: Sequence[int]) -> tuple[int, int]:
        """Read dead letters again; how many could be read, how many still cannot."""
        return self._journal.retry(ids, self._joiner)

    def _stop_before(self, error: LogTruncated) -> None:
        self._gaps = error.gaps
        self._read_again_at = time.monotonic() + _LOOK_AGAIN
        telemetry.gauge("learner_gap").set(1)
        _log.error(
            "records of the event log were removed before they were read; nothing is read until an operator accepts that "
            "(`liveloop log accept-gap --why ...`); training goes on with what was read",
            reason=error.reason,
        )
