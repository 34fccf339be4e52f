"""`liveloop bench learning` on a tiny model: which runs there are, what one finds, and what they come to."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console

from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from services.commands.bench.learning import Job, bench_learning, run_all
from services.commands.bench.learning_run import ARMS, Curve, frozen, offline, online, visits
from services.commands.bench.learning_table import print_table, summary
from tests.unit.test_bench_poison import new_subject


def nothing(_share: float, _words: str) -> None:
    """Is told how far a run is."""


def test_thumbs_teach_a_loop_what_people_hold_and_the_curve_says_so(tmp_path: Path):
    settings = Settings(cache=tmp_path, learner_threads=1, learning_rate=2e-3)
    curve = online(settings, new_subject(), "thumbs", 0, (60, 120), nothing)
    assert [(point["judged"], point.get("after")) for point in curve.points] == [(0, None), (60, "new"), (120, "new"), (120, "rest")]
    assert curve.judged == 120 and curve.versions > 10 and curve.progressive is not None
    assert curve.points[-1]["new"] > curve.points[0]["new"] + 0.1


def test_labels_teach_as_rows_do_and_offline_is_trained_on_as_many(tmp_path: Path):
    settings = Settings(cache=tmp_path, learner_threads=1, learning_rate=2e-3)
    curve = online(settings, new_subject(), "labels", 0, (80,), nothing)
    assert curve.judged == 80 and curve.points[-1]["new"] >= curve.points[0]["new"]
    assert offline(settings, new_subject(), 0, 80, nothing).judged == 80


def test_frozen_is_where_every_run_begins(tmp_path: Path):
    settings = Settings(cache=tmp_path, learner_threads=1)
    begun = online(settings, new_subject(), "thumbs", 0, (1,), nothing)
    assert frozen(new_subject()).points[0] == begun.points[0]


def test_a_seed_gives_the_same_people_the_same_texts():
    subject = new_subject()
    first, again, other = (
        [(visit.item.text, visit.judge) for visit in islice(visits(subject, subject.streams[0], random.Random(seed)), 50)]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_finished_run_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr("services.commands.bench.learning.subject", lambda *_: made.append(1) or new_subject())
    settings, job = Settings(cache=tmp_path, learner_threads=1), Job("movie", "frozen", 0, (500,))
    first = run_all(settings, [job], Console(quiet=True))
    assert run_all(settings, [job], Console(quiet=True)) == first and made == [1]
    run_all(settings.model_copy(update={"ema_decay": 0.5}), [job], Console(quiet=True))
    assert made == [1, 1]


def test_an_unknown_line_is_named_with_those_there_are(tmp_path: Path):
    with pytest.raises(Misconfigured, match="movie, tri, drift, news"):
        bench_learning(Settings(cache=tmp_path), seeds=1, full=False, line="mail", as_json=False, console=Console(quiet=True))


def curve(arm: str, *, seed: int = 0) -> tuple[Job, Curve]:
    gained = {"frozen": 0.0, "thumbs": 0.09, "labels": 0.10, "offline": 0.12}[arm] + 0.001 * seed
    counts = {"frozen": (0,), "offline": (4000,)}.get(arm, (0, 500, 2000, 4000))
    points = [{"judged": count, "movieReview": 0.7 + gained * count / 4000, "tweets": 0.93} for count in counts]
    if arm == "thumbs":
        points.append({"judged": 4000, "after": "rest", "movieReview": 0.8, "tweets": 0.93})
    return Job("movie", arm, seed, (500, 2000, 4000)), Curve(judged=counts[-1], points=points)


def test_shares_and_drops_are_what_the_curves_say():
    found = summary([curve(arm) for arm in ARMS])
    lines = {one["line"]: one["value"] for one in found["lines"]}
    assert lines["movie: points gained from 2,000 thumbs"] == 4.5
    assert lines["movie: share of what true labels gain online at 4,000"] == 90.0
    assert lines["movie: share of what true labels gain offline, rested at 4,000"] == pytest.approx(100 * 0.1 / 0.12, abs=0.1)
    assert lines["movie: largest drop between evaluations, most"] == 0.0
    assert [one["met"] for one in found["lines"] if "2,000" in one["line"]] == [False]


def test_seeds_are_averaged_and_everything_is_printed():
    runs = [curve(arm, seed=seed) for arm in ARMS for seed in (0, 1, 2)]
    thumbs = next(one for one in summary(runs)["curves"] if one["arm"] == "thumbs")
    assert thumbs["seeds"] == 3 and thumbs["accuracy"][4000] == pytest.approx(0.791)
    console = Console(width=160)
    with console.capture() as printed:
        print_table(runs, console)
    for words in ("thumbs", "offline", "to 50 %", "79.1", "lines to meet"):
        assert words in printed.get()
