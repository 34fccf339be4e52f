"""What the page tells, chapter by chapter. Knows the findings and the pictures; knows no journal, no model and no file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from liveloop.v1.learner_pb2 import Version, VersionState
from services.commands.report import plots
from services.commands.report.fates import Fates
from services.commands.report.parts import Chapter, Figure, Table
from services.commands.report.people import People
from services.commands.report.steps import Steps
from services.learner.intervals import Estimate
from services.learner.live import Slice

_PERCENTILES = (50, 90, 95, 99)
_UNITS = ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes"))
_STRIP = 96
"""Versions in the strip: three pixels each on a telephone."""
_NOTABLE = 30


def learning(found: Steps) -> Chapter:
    """How the loss went."""
    lines = {
        name.removesuffix("_loss"): plots.Curve([one.row for one in points], [one.value for one in points])
        for name, points in found.losses.items()
    }
    figures = [Figure(f"Loss by component, the mean of the steps about a row, {found.count:,} steps.", _drawn(lines, "loss", "loss"))]
    return Chapter(
        "loss",
        "Loss",
        "What each step minimised: task loss and feedback loss before their weights.",
        figures if lines else (),
        half=True,
    )


def _drawn(lines: Mapping[str, plots.Curve], name: str, y: str) -> Markup:
    return plots.curves(lines, name=name, x="row of the journal", y=y, zero=True)


def accuracy(found: Steps) -> Chapter:
    """How right the evaluated versions were."""
    newest = {split: points[-1] for split, points in found.accuracies.items()}
    rows = [(split, str(version), one.points) for split, (version, one) in sorted(newest.items())]
    return Chapter(
        "accuracy",
        "Accuracy by slice",
        "What the guard's full evaluations found: the task's validation rows, held-out feedback, and slices of your own; 95 % intervals. "
        "Held-out feedback is always that of the moment, so its curve moves with what people ask.",
        [Figure("Right answers over versions.", plots.accuracies(found.accuracies, name="accuracy", x="version"))] if rows else (),
        [Table("The newest evaluation of each slice", ("slice", "version", "right answers, %"), rows)] if rows else (),
    )


def live(found: Sequence[Slice], gained: Estimate | None) -> Chapter:
    """How right the answers were that people judged."""
    rows = [(one.name, one.accuracy.points, f"{one.judged:,}", f"{one.judges:,}") for one in found]
    hint = "Each answer was given before it was judged, so no version is scored on what it had learnt from; 95 % intervals, by judge. "
    uplift = f"Beside users who are held out, learning gained {gained.points} points." if gained else "Nobody, or too few, are held out."
    tables = [Table("The newest judged answers", ("slice", "right, %", "judged", "judges"), rows)] if rows else ()
    return Chapter("live", "Live accuracy", hint + uplift, tables=tables, half=True)


def versions(found: Fates, newest: Sequence[Version]) -> Chapter:
    """Which versions there were, and how they ended."""
    made = sum(found.kinds.values())
    marks = {
        "made": made,
        "published": found.published,
        "blessed": found.blessed,
        "rolled back": found.undone,
        "replaced": found.replaced,
        **{f"by {kind}": count for kind, count in found.kinds.items()},
    }
    notable = [one for one in newest if _is_notable(one)][:_NOTABLE]
    rows = [
        (str(one.version), _state(one), one.kind, _when(one.created_at.ToNanoseconds() / 1e9), str(one.feedback), _scores(one))
        for one in notable
    ]
    tables = [Table("All versions", ("versions", "count"), _counts(marks))]
    if rows:
        head = ("version", "state", "made by", "when (UTC)", "new feedback", "right answers, %")
        tables.append(Table(f"Notable among the newest {len(newest):,}", head, rows, "wide prose"))
    return Chapter(
        "versions",
        "Versions and their fate",
        "Bars are as high as the new feedback they learnt from; a dot marks a version that became the blessed one.",
        tables=tables if made else (),
        strip=list(reversed(newest[:_STRIP])),
    )


def _is_notable(one: Version) -> bool:
    ended = one.state in (VersionState.VERSION_STATE_ROLLED_BACK, VersionState.VERSION_STATE_REPLACED)
    return one.current or one.pinned or ended or one.kind not in ("train", "settle", "consolidate")


def _state(one: Version) -> str:
    state = VersionState.Name(one.state).removeprefix("VERSION_STATE_").lower().replace("_", " ")
    return f"{state}{', current' if one.current else ''}{', pinned' if one.pinned else ''}"


def _scores(one: Version) -> str:
    return ", ".join(f"{score.split} {100 * score.accuracy:.1f}" for score in one.scores)


def freshness(found: People) -> Chapter:
    """How soon what people said was served."""
    waits = found.waits
    return Chapter(
        "freshness",
        "Freshness",
        "From the acknowledgement of a feedback to the first report of a pod that serves weights which include it.",
        [Figure("Seconds from accepted to served.", plots.histogram(waits, name="freshness", x="seconds", y="feedback"))]
        if len(waits)
        else (),
        [Table("Of what was served", ("share", "within"), _percentiles(waits))] if len(waits) else (),
        half=True,
    )


def _percentiles(waits: npt.NDArray[np.float64]) -> list[tuple[str, str]]:
    found = np.percentile(waits, _PERCENTILES, method="inverted_cdf")
    return [(f"{share} %", f"{wait:.2f} s") for share, wait in zip(_PERCENTILES, found, strict=True)] + [("all", f"{waits[-1]:.2f} s")]


def votes(found: People) -> Chapter:
    """What people said."""
    middles, unit = _times(found)
    kinds = {kind: sum(counts) for kind, counts in found.over_time.items()}
    tables = [
        Table("By kind", ("kind", "count"), _counts(kinds)),
        Table("By source", ("source", "count"), _counts(found.sources)),
        Table("What became of it", ("state", "count"), _counts({state.replace("_", " "): n for state, n in found.states.items()})),
    ]
    if found.reasons:
        tables.append(Table("Reasons that people gave", ("reason", "count"), _counts(found.reasons)))
    bars = plots.stacked(found.over_time, name="votes", x=f"{unit} since then", places=middles)
    picture = Figure(f"Feedback by kind, from {_when(found.first)} UTC.", bars)
    said = f"{found.count:,} feedback of {found.judges:,} judges." if found.count else "Nobody has judged an answer."
    return Chapter("votes", "Votes", said, [picture] if found.count else (), tables if found.count else ())


def guard(found: Fates) -> Chapter:
    """What was refused, taken back and set aside."""
    counts = {**found.by_decision, "evaluations passed": found.passed, "evaluations to watch": found.evaluated - found.passed}
    tables = [Table("Decisions", ("decision", "count"), _counts(counts))]
    if found.decisions:
        rows = [(_when(one.at), one.decision, str(one.version or ""), one.who, one.why) for one in found.decisions]
        tables.append(Table(f"The newest {len(rows)}", ("when (UTC)", "decision", "version", "who", "why"), rows, "wide prose"))
    if found.set_aside:
        rows_set_aside = [(why or "no reason is recorded", f"{count:,}") for why, count in found.set_aside]
        tables.append(Table("In quarantine", ("why", "feedback"), rows_set_aside, "wide prose"))
    hint = "Steps refused, versions taken back, feedback set aside: by the guard, the canary and operators."
    return Chapter("guard", "The guard and other decisions", hint, tables=tables if found.decisions or found.evaluated else ())


def patches(found: Steps) -> Chapter:
    """What versions weighed on the wire."""
    lines = {
        "mean": plots.Curve([one.version for one in found.patches], [one.mean / 1e6 for one in found.patches]),
        "largest": plots.Curve([one.version for one in found.patches], [one.largest / 1e6 for one in found.patches]),
    }
    picture = Figure(
        "Megabytes of a version's patch; the mean and the largest of those about it.",
        plots.curves(lines, name="patches", x="version", y="MB", zero=True),
    )
    return Chapter("patches", "Patches", "What a pod fetches for a new version.", [picture] if found.patches else (), half=True)


def _counts(found: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in found.items()]


def _times(found: People) -> tuple[list[float], str]:
    """The middles of the stretches, in the unit that suits, and its name."""
    span = max(found.last - found.first, 1.0)
    seconds, unit = next(
        one for one in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")) if span >= 2 * one[0] or one[0] == 1.0
    )
    bins = max(map(len, found.over_time.values()), default=0)
    return [(place + 0.5) * span / bins / seconds for place in range(bins)], unit


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def chapters(steps: Steps, fates: Fates, people: People, judged: Chapter, newest: Sequence[Version]) -> Iterable[Chapter]:
    """All that the journal alone can tell, in the order of the page."""
    return (
        accuracy(steps),
        judged,
        freshness(people),
        learning(steps),
        patches(steps),
        versions(fates, newest),
        votes(people),
        guard(fates),
    )
