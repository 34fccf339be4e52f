"""The report in a headless Chromium: nothing asked from elsewhere, nothing run, nothing over the edge, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser

from services.commands.report.writing import write_report
from tests.unit.test_evaluate import Learner
from tests.unit.test_report import CHAPTERS, tell

PICTURES = ("accuracy", "freshness", "loss", "patches", "votes")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a learner whose users were hostile."""
    learner = Learner(tmp_path_factory.mktemp("report"))
    tell(learner)
    write_report(learner.settings, learner.settings.data / "report.html")
    yield learner.settings.data / "report.html"
    learner.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_stands_alone_and_fits_the_screen(browser: Browser, report: Path, width: int, scheme: Literal["light", "dark"]):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(report.as_uri())
    assert [part.get_attribute("id") for part in page.locator("main > section").all()] == ["summary", *CHAPTERS]
    assert [name for name in PICTURES if page.locator(f"#{name} figure svg").bounding_box()["height"] < 100] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, axis = (page.evaluate(f"getComputedStyle({of}).{what}") for of, what in (("document.body", "color"), (_TEXT, "fill")))
    assert axis != "rgb(0, 0, 0)" and ink != axis  # the picture's text has the page's softer colour
    assert page.evaluate(f"getComputedStyle({_TEXT}).fill === getComputedStyle(document.querySelector('#loss .hint')).color")
    assert (asked, said) == ([report.as_uri()], [])
    page.close()


_TEXT = "document.querySelector('#loss svg text')"
