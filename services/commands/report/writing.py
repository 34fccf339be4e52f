"""A data folder read beside a running loop, and the report of it written. Knows which chapters there are; writes nothing but the report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from liveloop import keys
from liveloop.errors import LiveloopError, Misconfigured, sentence
from liveloop.settings import Settings
from liveloop.v1.learner_pb2 import Version
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.head import read_model
from services.commands.report.chapters import chapters, live
from services.commands.report.event_files import write_event_files
from services.commands.report.fates import Fates, read_fates
from services.commands.report.page import render
from services.commands.report.parts import Chapter
from services.commands.report.people import People, read_people
from services.commands.report.steps import read_steps
from services.learner.live import said, slices, uplift
from services.learner.reproduce import ReadJournal
from services.learner.view import JournalView

_NEWEST = 1_000
"""Versions that are looked at one by one."""


def write_report(
    settings: Settings, output: Path, *, evaluate: bool = True, own: Sequence[Chapter] = (), console: Console | None = None
) -> None:
    """Write the page to `output` and the event files to the folder `tensorboard` beside it; `own` chapters come first.

    Raises Misconfigured where the data folder is none, or its journal has another format; OSError where `output` cannot be written.
    """
    path = settings.data / "learner.db"
    if not settings.data.is_dir():
        raise Misconfigured(f"there is no data folder {settings.data}")
    when = f"as of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    if not path.exists():
        hint = "No learner has run on this data folder: start the loop with `liveloop up` and judge some answers."
        _write(output, render("liveloop", when, {}, [*own, Chapter("empty", "Nothing is learnt yet", hint)]))
        return
    journal = ReadJournal(path)
    with closing(journal.db):
        found = read_steps(journal.db), read_fates(journal.db), read_people(journal.db)
        judgements = said(journal.db)
        newest = JournalView(path, canary_share=settings.canary_share).versions(_NEWEST)
        write_event_files(journal.db, output.parent / "tensorboard")
        compared = _compared(settings, journal, console) if evaluate else ()
    everything = [*own, *compared, *chapters(*found, live(slices(judgements), uplift(judgements)), newest)]
    _write(output, render(_title(settings), when, _figures(found[1], found[2], newest), everything))


def _compared(settings: Settings, journal: ReadJournal, console: Console | None) -> Sequence[Chapter]:
    """The chapter on before and after; one that says why where there is none."""
    from services.commands.report.before_after import compare_versions
    from services.commands.report.comparison import comparison

    with Progress(transient=True, console=console, disable=console is None) as bar:
        task = bar.add_task("evaluating the first and the newest version")
        try:
            found = compare_versions(settings, journal, lambda done, rows: bar.update(task, completed=done, total=rows))
        except LiveloopError as error:
            return [Chapter("before-after", "Before and after", f"It cannot be told: {sentence(error)}.")]
    hint = "There is one version only, or neither test rows nor held-out feedback to ask it."
    return [comparison(found) if found else Chapter("before-after", "Before and after", hint)]


def _title(settings: Settings) -> str:
    """The model's name and its labels, which are what its maker called them."""
    try:
        bundle = read_model(DirectoryStore(settings.data / "weights"), keys.verify_key(settings)).bundle
    except LiveloopError:
        return "liveloop"
    return f"What {bundle.model} learnt: {', '.join(bundle.labels[:_NAMED])}{', …' if len(bundle.labels) > _NAMED else ''}"


_NAMED = 8
"""Labels in the title."""


def _figures(fates: Fates, people: People, newest: Sequence[Version]) -> dict[str, str]:
    current = next((one.version for one in newest if one.current), 0)
    included = people.states.get("trained", 0) + people.states.get("served", 0)
    half = people.waits[(len(people.waits) - 1) // 2] if len(people.waits) else None
    return {
        "current version": f"{current:,}",
        "versions made": f"{sum(fates.kinds.values()):,}",
        "feedback": f"{people.count:,}",
        "learnt from": f"{included:,}",
        "accepted to served, median": "-" if half is None else f"{half:.2f} s",
        "rolled back": f"{fates.undone:,}",
        "in quarantine": f"{people.states.get('quarantined', 0):,}",
    }


def _write(output: Path, page: str) -> None:
    """In one go: who has the page open never sees half of it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f".{output.name}.new")
    draft.write_text(page, encoding="utf-8")
    draft.replace(output)
