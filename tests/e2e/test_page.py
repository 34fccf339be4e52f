"""The page in a headless Chromium, against the running loop: type, answer, judge, and the same text answered again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, Route

from services.learner.joiner import is_held_out
from tests.e2e.running import PATIENCE, Running, wait_for

SHOWN = 48
"""Versions in the strip."""
CHANGE = re.compile(r"First included (?P<seconds>\d+\.\d) s after your (thumb|correction); the same text is (still|now) \w+\.")


@pytest.fixture
def page(browser: Browser, loop: Running) -> Iterator[Page]:
    """The page, open and live; afterwards, that it neither failed nor asked anyone but the gateway."""
    page = browser.new_page()  # in a context of its own: nothing is kept yet
    page.set_default_timeout(PATIENCE * 1000)
    faults, asked = [], set()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
    page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
    page.goto(loop.http_url)
    page.wait_for_selector("#serving[data-live=yes]")
    yield page
    page.close()
    assert faults == []
    assert asked == {loop.http_url}


def ask(page: Page, text: str, *, held_out: bool = False) -> str:
    """The id of the answer. Asks until the answer is one whose judgement is held out, or is not: the id of the answer decides."""
    page.fill("#text", text)
    while True:
        with page.expect_response("**/v1/predict") as answered:
            page.press("#text", "Enter")
        answer = answered.value.json()["predictions"][0]
        page.wait_for_selector(f'#answer[data-id="{answer["prediction_id"]}"]')
        if is_held_out(answer["prediction_id"]) == held_out:
            return str(answer["prediction_id"])


def judge(page: Page, name: str) -> None:
    page.locator("#thumbs").get_by_role("button", name=name, exact=True).click()


def wait_state(page: Page, state: str) -> str:
    """Wait until the answer's thumb is there; what the page says of it."""
    page.wait_for_selector(f"#thumbs[state={state}]")
    return page.locator("#thumbs").get_by_role("status").inner_text()


def fill_strip(route: Route) -> None:
    """As many versions as the strip shows, each blessed and with feedback, as after some minutes of learning."""
    versions = json.loads(route.fetch().body())["versions"]
    filled = [{**versions[0], "blessed": True, "feedback": 8, "version": SHOWN - place} for place in range(SHOWN)]
    route.fulfill(json={"versions": filled})


def newest(page: Page) -> Locator:
    return page.locator("#given > li").first


def wait_compared(page: Page, text: str) -> Locator:
    """The newest of the thumbs given, once its text was asked again and learning is quiet."""
    page.wait_for_selector("#given > li:first-child[data-compared=settled]")
    assert newest(page).locator(".said").inner_text() == text
    return newest(page)


def stages(given: Locator) -> list[tuple[float, int]]:
    """The probability of the judged label and the version, before, first and settled."""
    rows = given.locator(".change li")
    return [(float(row.locator(".value").inner_text()), int(row.locator(".hint").inner_text().split()[1])) for row in rows.all()]


def test_a_thumb_down_changes_the_answer_to_the_same_text_and_the_page_shows_before_after_and_settled(page: Page):
    text = "two hours of my life that I will not get back"
    ask(page, text)
    score, version = float(page.inner_text("#score")), int(page.inner_text("#version").split()[1])
    page.locator("#thumbs").get_by_role("button", name="Wrong").press("Space")
    served = int(wait_state(page, "served").split("version ")[1].split(",")[0])
    given = wait_compared(page, text)
    assert CHANGE.fullmatch(given.locator(".change p").inner_text())
    before, first, settled = stages(given)
    assert before == (score, version)
    assert version < served <= first[1] <= settled[1]
    assert settled[0] < before[0]


def test_the_strip_shows_the_versions_as_they_are_made_and_how_fresh_the_model_is(page: Page, loop: Running):
    ask(page, "made while you watch")
    judge(page, "Right")
    version = wait_state(page, "served").split("version ")[1].split(",")[0]
    wait_for(lambda: int(page.inner_text("#now")) >= int(version), f"the strip tells of version {version}")
    mark = page.locator("#ticks li[data-kind=train]", has_text=re.compile(rf"version {version}, learnt, "))
    mark.wait_for(state="attached")
    wait_for(lambda: re.fullmatch(r"\d+\.\d s", page.inner_text("#fresh")), "the strip tells how fresh the model is")
    assert page.locator("#ticks li").count() <= len(loop.client.versions(48))


def test_a_correction_and_its_undoing_are_followed_to_their_ends_and_survive_a_reload(page: Page):
    text = "the songs are fine, the rest is noise"
    ask(page, text)
    picker = page.locator("#thumbs").get_by_role("combobox")
    picker.select_option(index=1)
    wait_state(page, "served")
    wait_compared(page, text)
    page.reload()
    given = wait_compared(page, text)
    assert "Served in version" in given.get_by_role("status").inner_text()
    assert len(stages(given)) == 3
    given.get_by_role("button", name="Undo").click()
    page.wait_for_selector("#given > li:first-child[data-state=retracted]")
    assert "never trains again" in given.get_by_role("status").inner_text()
    assert not given.locator(".change").is_visible()


def test_a_thumb_that_is_held_out_says_so_and_the_same_can_be_asked_again(page: Page):
    first = ask(page, "a quiet little film", held_out=True)
    judge(page, "Right")
    assert "kept to check the model with, one in ten; it is never trained on" in wait_state(page, "held_out")
    newest(page).get_by_role("button", name="Ask again").click()
    page.wait_for_selector(f'#answer:not([data-id="{first}"])')
    assert page.locator("#thumbs").get_by_role("button", name="Right").get_attribute("aria-pressed") == "false"


def test_the_list_of_thumbs_can_be_forgotten_by_this_browser(page: Page):
    ask(page, "burn after reading")
    judge(page, "Wrong")
    wait_state(page, "served")
    page.click("#clear")
    page.wait_for_selector("#given-empty:not([hidden])")
    assert page.locator("#given > li").count() == 0
    assert page.evaluate("Object.keys(localStorage)") == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_over_the_edge_of_the_page(page: Page, width: int, scheme: Literal["light", "dark"]):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.route("**/v1/versions*", fill_strip)
    ask(page, "onewordwithoutend" * 40)
    judge(page, "Right")
    page.wait_for_selector("#given > li")
    wait_for(lambda: page.locator("#ticks li").count() == SHOWN, "the strip is full")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = "part => part.scrollWidth > part.clientWidth && getComputedStyle(part).overflowX === 'visible' && part.clientWidth > 0"
    assert page.evaluate(f"[...document.querySelectorAll('section, section *')].filter({cut}).map(part => part.outerHTML)") == []


def test_a_text_that_cannot_be_answered_is_explained(page: Page):
    page.fill("#text", "x" * 40_000)
    page.click("#send")
    page.wait_for_selector("#error:not([hidden])")
    assert "bytes" in page.inner_text("#error")


def test_the_description_of_the_api_loads_nothing_from_elsewhere(page: Page, loop: Running):
    page.goto(f"{loop.http_url}/docs")
    page.wait_for_selector("main section")
    assert page.locator("section").count() > 10
