"""What a demo shows: a view that fits a terminal, and a picture."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from services.commands.demo_chapter import demo_chapter
from services.commands.demo_record import Record, Shown, estimate, gain
from services.commands.demo_view import live_view, result_table
from services.commands.freshness import Thumb


def _record(shown: int) -> Record:
    """The loop gets better and better; version 1 stays as it is."""
    record = Record(shown=[Shown(right=number % 10 < 5 + number / shown * 5, frozen_right=number % 2 == 0) for number in range(shown)])
    record.given = shown
    record.thumbs = [Thumb(str(number), "", acknowledged_at=number, version=2, ended=True) for number in range(shown)]
    record.answered(1, 0.0)
    record.answered(2, shown + 0.5)
    return record


def _rendered(renderable: object) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("shown", [0, 1, 41, 42, 100, 1000])
def test_the_view_fits_eighty_columns_however_far_the_demo_is(shown: int) -> None:
    lines = _rendered(live_view(_record(shown) if shown else Record(), 1000))
    assert max(len(line) for line in lines) <= 80
    text = "\n".join(lines)
    assert f"{shown} of 1000 given, {shown} acknowledged, {shown} trained" in text


def test_the_better_curve_ends_above_the_other() -> None:
    lines = _rendered(live_view(_record(1000), 1000))
    assert next(number for number, line in enumerate(lines) if "●" in line) < next(
        number for number, line in enumerate(lines) if "·" in line
    )
    assert "version 1, frozen 50.0 %" in "\n".join(lines)


def test_the_result_gives_shares_and_the_interval_of_the_gain() -> None:
    before, after = [True] * 60 + [False] * 40, [True] * 80 + [False] * 20
    rows = [("movie reviews", estimate([float(one) for one in before]), estimate([float(one) for one in after]), gain(before, after))]
    lines = _rendered(result_table(rows))
    assert max(len(line) for line in lines) <= 80
    assert any("60.0 % ± 9.6" in line and "80.0 % ± 7.8" in line and "+20.0 (+12.2 to +27.8)" in line for line in lines)


def test_the_report_holds_the_curves_and_both_domains() -> None:
    share = estimate([1.0, 0.0, 1.0])
    chapter = demo_chapter(_record(300), [("movie reviews", share, share, share), ("tweets", share, share, share)])
    assert [row[0] for row in chapter.tables[0].rows] == ["movie reviews", "tweets"]
    assert chapter.tables[0].rows[0][1] == "66.7 (13.3 to 120.0)"
    assert "version 1, frozen" in chapter.figures[0].svg
