"""How two versions answer the same rows: the first beside the newest. Knows the learner's materials and what it evaluates with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from liveloop.settings import Settings
from liveloop.tasks import FeedbackExample, LabelledExample
from services.learner.evaluation import Answerer, Report, report
from services.learner.evaluator import is_right
from services.learner.intervals import Estimate, paired, share
from services.learner.materials import choose_device, load_materials, read_test
from services.learner.micro_batch import MicroBatches
from services.learner.reproduce import KeptVersions, ReadJournal

_ROWS = 2_000
"""Of each set at the most, evenly taken: a standard error of a point, and seconds of MiniLM on two cores."""
_FIRST = 1
Example = LabelledExample | FeedbackExample


@dataclass(frozen=True, slots=True)
class Compared:
    """Two versions on one set of rows, one or more."""

    name: str
    rows: int
    before: Estimate
    after: Estimate
    gained: Estimate
    then: Report | None  # on the rows whose right label is known; none: there is no such row
    now: Report | None


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """The first version and the newest published one."""

    before: int
    after: int
    sets: Sequence[Compared]


def compare_versions(settings: Settings, journal: ReadJournal, progress: Callable[[int, int], object]) -> BeforeAfter | None:
    """Answer the test rows and the held-out feedback with both; None where there is one version, or no row.

    `progress(done, rows)` is told after each batch. Raises NotFound, WeightsRefused where a version cannot be read; Misconfigured.
    """
    device = choose_device(settings)
    materials = load_materials(settings, device)
    labels = materials.task.labels
    newest = journal.db.execute("SELECT max(version) FROM versions").fetchone()[0] or _FIRST
    held_out = MicroBatches(journal.db, materials.train, labels).held_out(_ROWS)
    sets: dict[str, list[Example]] = {
        "test rows": _evenly(read_test(settings.data / "task", labels)),
        "held-out feedback": list(held_out.values()),
    }
    rows = [row for found in sets.values() for row in found]
    if newest == _FIRST or not rows:
        return None
    done = 0

    def answered(count: int) -> None:
        nonlocal done
        done += count
        progress(done, 2 * len(rows))

    kept = KeptVersions(materials.store, materials.key.public_key(), journal, materials.layout.total)
    torch.set_num_threads(materials.recipe.threads)
    before, after = (
        Answerer(materials.task, materials.layout, kept.load(version), device, answered).answer(rows) for version in (_FIRST, newest)
    )
    found, at = [], 0
    for name, some in sets.items():
        part = slice(at, at := at + len(some))
        if some:
            found.append(_compared(name, some, before[part], after[part], labels))
    return BeforeAfter(_FIRST, newest, found)


def _evenly(rows: Sequence[LabelledExample]) -> list[Example]:
    return list(rows[:: 1 + (len(rows) - 1) // _ROWS]) if rows else []


def _compared(name: str, rows: Sequence[Example], before: Sequence[int], after: Sequence[int], labels: Sequence[str]) -> Compared:
    right_before, right_after = (list(map(is_right, rows, found)) for found in (before, after))
    known = [(place, row) for place, one in enumerate(rows) if (row := _labelled(one, len(labels))) is not None]
    labelled = [row for _, row in known]
    then, now = (report(labelled, [found[place] for place, _ in known], labels) if known else None for found in (before, after))
    gained = paired(right_after, right_before)
    return Compared(name, len(rows), share(right_before), share(right_after), gained, then, now)


def _labelled(row: Example, labels: int) -> LabelledExample | None:
    """With its right label; None where only a wrong one is known, of more than two."""
    if isinstance(row, LabelledExample):
        return row
    if row.sign > 0:
        return LabelledExample(row.text, row.label)
    return LabelledExample(row.text, 1 - row.label) if labels == 2 else None
