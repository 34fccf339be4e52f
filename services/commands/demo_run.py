"""The demo: real raters judge movie reviews while the loop learns from them. Knows the client and the study, no service's insides."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.live import Live

from liveloop import Client
from liveloop.errors import LiveloopError, Misconfigured
from liveloop.settings import Settings, load_settings
from liveloop.v1.inference_pb2 import ACK_STATUS_ACCEPTED, Prediction
from services.commands.assets import demo_assets
from services.commands.demo_model import prepare_demo
from services.commands.demo_record import Estimate, Record, Shown, estimate, gain
from services.commands.demo_view import live_view, result_table
from services.commands.freshness import Thumb, percentile
from services.commands.processes import Loop, free_settings
from services.commands.raters import RatedText, Study, read_study, thumb

_OUTPUT = Path("demo-output")
_SECONDS, _THUMBS = 100.0, 1200
"""The thumbs end after this time or this number: with the set-up and the two evaluations that is at most four minutes on two cores."""
_WAITING = 16
"""Thumbs that may wait for the learner: one micro-batch in work and one to come, so that each step learns from about eight."""
_PAUSE = 0.05  # seconds between two texts at the least: people read
_BATCH = 64  # texts in one call of an evaluation


def run_demo(data: Path | None, *, seed: int, thumbs: int | None, as_json: bool) -> None:
    """Run the whole demo and print what came of it; the exit code is 130 when it was interrupted.

    Raises:
        Misconfigured: the folder is in use or initialised already, the download failed, or the loop does not start.
    """
    console = Console(stderr=as_json)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _folder(data) as folder:
            settings = load_settings(data=folder, seed=seed, events_url="", weights_url="")
            prepare_demo(settings, console)
            _Demo(settings, seed, thumbs, console).run(page=(folder if data else _OUTPUT) / "report.html", as_json=as_json)
    except KeyboardInterrupt:
        console.print("Stopped.")
        raise typer.Exit(130) from None


@contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    """The folder for all state: the one named, or a fresh one that no other demo uses."""
    if data is not None:
        yield data
        return
    _OUTPUT.mkdir(exist_ok=True)
    with (_OUTPUT / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Misconfigured(f"another demo is running in {_OUTPUT}; name another folder with --data") from error
        shutil.rmtree(_OUTPUT / "data", ignore_errors=True)
        yield _OUTPUT / "data"


class _Demo:
    """One run, from the first answer of version 1 to the last figure."""

    def __init__(self, settings: Settings, seed: int, thumbs: int | None, console: Console) -> None:
        self._settings = free_settings(settings)
        self._study: Study = read_study(demo_assets(settings.cache, console).study)
        self._rng = random.Random(seed)
        self._target = thumbs or _THUMBS
        self._seconds = float("inf") if thumbs else _SECONDS
        self._console = console
        self._record = Record()

    def run(self, *, page: Path, as_json: bool) -> None:
        self._console.print("Starting inference, learner and gateway …")
        with Loop(self._settings), Client(self._settings.inference_listen, learner=self._settings.learner_listen, timeout=60.0) as client:
            self._client = client
            stream = self._rng.sample(self._study.reviews_stream, min(len(self._study.reviews_stream), self._target * 11 // 10 + 20))
            with self._console.status("Asking version 1 about held-out reviews and tweets, and about the reviews to come …"):
                before = self._evaluate()
                frozen = self._answers(stream)
            self._learn(stream, [answer.label for answer in frozen])
            with self._console.status("Waiting for the last thumbs, then asking again about the held-out texts …"):
                self._settle()
                after = self._evaluate()
        self._report(before, after, page, as_json)

    def _answers(self, items: Sequence[RatedText]) -> list[Prediction]:
        """The served version's answers; not stored, so that they leave no trace in the loop."""
        texts = [item.text for item in items]
        return [answer for at in range(0, len(texts), _BATCH) for answer in self._client.predict(texts[at : at + _BATCH], store=False)]

    def _evaluate(self) -> dict[str, list[bool]]:
        """Which held-out texts are answered rightly, all by one version."""
        while True:
            domains = {"new_domain": self._study.reviews_test, "old_domain": self._study.tweets_test}
            answers = {name: self._answers(items) for name, items in domains.items()}
            if len({answer.version for found in answers.values() for answer in found}) == 1:
                break
        return {
            name: [answer.label == item.label for answer, item in zip(answers[name], items, strict=True)] for name, items in domains.items()
        }

    def _learn(self, stream: Sequence[RatedText], frozen: Sequence[str]) -> None:
        """Show one review after another to a rater; keep in step with the learner."""
        ends = time.monotonic() + self._seconds
        with Live(get_renderable=lambda: live_view(self._record, self._target), console=self._console, refresh_per_second=2):
            for item, frozen_label in zip(stream, frozen, strict=True):
                if self._record.given >= self._target or time.monotonic() > ends:
                    break
                began = time.monotonic()
                self._turn(item, frozen_label)
                self._record.follow(self._client)
                while len(self._record.waiting) > _WAITING and time.monotonic() < ends:
                    time.sleep(_PAUSE)
                    self._ask(item, store=False)
                    self._record.follow(self._client)
                time.sleep(max(0.0, began + _PAUSE - time.monotonic()))
        self._console.print()

    def _turn(self, item: RatedText, frozen_label: str) -> None:
        """One answer, and what one rater says to it."""
        answer = self._ask(item, store=True)
        self._record.shown.append(Shown(answer.label == item.label, frozen_label == item.label))
        up = thumb(item, answer.label, self._rng)
        if up is None:
            return
        self._record.given += 1
        ack = self._client.feedback(answer, "up" if up else "down")
        if ack.status == ACK_STATUS_ACCEPTED:
            self._record.thumbs.append(Thumb(answer.prediction_id, ack.feedback_id, time.monotonic()))

    def _ask(self, item: RatedText, *, store: bool) -> Prediction:
        answer = self._client.predict(item.text, store=store)
        self._record.answered(answer.version, time.monotonic())
        return answer

    def _settle(self, timeout: float = 60.0) -> None:
        """Wait until every thumb is accounted for and the served version has stayed the same for three seconds."""
        deadline = time.monotonic() + timeout
        since = time.monotonic()
        while time.monotonic() < deadline:
            version = self._record.version
            self._ask(self._study.reviews_test[0], store=False)
            self._record.follow(self._client)
            if self._record.waiting or self._record.version != version:
                since = time.monotonic()
            if time.monotonic() - since > 3.0:
                return
            time.sleep(_PAUSE)
        raise LiveloopError(f"{len(self._record.waiting)} thumbs were not accounted for in {timeout:.0f} s")

    def _report(self, before: dict[str, list[bool]], after: dict[str, list[bool]], page: Path, as_json: bool) -> None:
        from services.commands.demo_chapter import demo_chapter  # matplotlib takes a second
        from services.commands.report.writing import write_report

        names = {"new_domain": "movie reviews", "old_domain": "tweets"}
        gains = {name: gain(before[name], after[name]) for name in names}
        rows = [(names[name], _accuracy(before[name]), _accuracy(after[name]), gains[name]) for name in names]
        write_report(self._settings, page, own=[demo_chapter(self._record, rows)], console=self._console)
        freshness = {f"p{share}": percentile(self._record.seconds(), share / 100) for share in (50, 95, 99)}
        self._console.print(result_table(rows))
        self._console.print(
            f"{self._record.given} thumbs given, {len(self._record.thumbs)} acknowledged, {self._record.trained} trained "
            f"(about a tenth is held out to check the model), {self._record.version} versions; "
            f"thumb to served p50 {freshness['p50'] or 0:.2f} s, p95 {freshness['p95'] or 0:.2f} s."
        )
        self._console.print(f"The report is in {page}. Go on from here: liveloop up --data {self._settings.data}")
        if as_json:
            accuracy = {name: {"before": _accuracy(before[name]).value, "after": _accuracy(after[name]).value} for name in names}
            print(json.dumps(_rounded(accuracy, gains["new_domain"], self._record, freshness)))  # noqa: T201  the one line that was asked for


def _rounded(
    accuracy: dict[str, dict[str, float]], gained: Estimate, record: Record, freshness: dict[str, float | None]
) -> dict[str, object]:
    shares = {name: {when: round(value, 4) for when, value in found.items()} for name, found in accuracy.items()}
    return {
        "accuracy": {**shares, "new_domain": {**shares["new_domain"], "gain_ci95": [round(gained.low, 4), round(gained.high, 4)]}},
        "feedback": {"given": record.given, "acknowledged": len(record.thumbs), "trained": record.trained},
        "versions": record.version,
        "freshness_seconds": {name: None if value is None else round(value, 3) for name, value in freshness.items()},
    }


def _accuracy(right: Sequence[bool]) -> Estimate:
    return estimate([float(value) for value in right])


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
