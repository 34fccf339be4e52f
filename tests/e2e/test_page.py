"""The page in a headless Chromium, against the running loop: type, answer, judge, and the same text answered again."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from services.learner.joiner import is_held_out
from tests.e2e.running import PATIENCE, Running

ANSWER = r"(?P<label{0}>\w+) (?P<score{0}>[01]\.\d\d) \(version (?P<version{0}>\d+)"
CHANGE = re.compile(
    rf"{ANSWER.format(1)}\) → {ANSWER.format(2)}[,;] first included (?P<seconds>\d+\.\d) s after your thumb(, in version \d+)?\)"
    rf" → (settled|still learning) {ANSWER.format(3)}\)"
)


@pytest.fixture
def page(browser: Browser, loop: Running) -> Iterator[Page]:
    """The page, open and live; afterwards, that it neither failed nor asked anyone but the gateway."""
    page = browser.new_page()
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


def ask(page: Page, text: str, *, held_out: bool = False) -> None:
    """Ask until the answer is one whose judgement is held out, or is not: the id of the answer decides."""
    page.fill("#text", text)
    while True:
        with page.expect_response("**/v1/predict") as answered:
            page.press("#text", "Enter")
        answer = answered.value.json()["predictions"][0]
        page.wait_for_selector(f'#answer[data-id="{answer["prediction_id"]}"]')
        if is_held_out(answer["prediction_id"]) == held_out:
            return


def wait_state(page: Page, *states: str) -> None:
    page.wait_for_selector(", ".join(f"#story[data-state={state}]" for state in states))


def probabilities(page: Page, stage: int, label: str) -> float:
    """What the bars show for a label: 0 before, 1 at the first version that includes the judgement, 2 settled."""
    trace = page.locator("#traces .trace").nth(stage)
    bar = trace.locator("li", has=page.get_by_text(label, exact=True)).locator(".bar")
    return float(bar.evaluate("bar => parseFloat(bar.style.width)")) / 100


def test_a_thumb_down_changes_the_answer_to_the_same_text_and_the_page_shows_before_after_and_settled(page: Page):
    ask(page, "two hours of my life that I will not get back")
    label = page.inner_text("#label")
    before = f"{label} {page.inner_text('#score')} ({page.inner_text('#version')})"
    page.press("#down", "Space")
    wait_state(page, "settled")
    shown = page.inner_text("#change").replace("\n", " ")
    change = CHANGE.fullmatch(shown)
    assert change, shown
    assert shown.startswith(before)
    assert int(change["version1"]) < int(change["version2"]) <= int(change["version3"])
    assert probabilities(page, 2, label) < probabilities(page, 0, label)


def test_a_correction_and_its_retraction_are_followed_to_their_ends(page: Page):
    ask(page, "the songs are fine, the rest is noise")
    page.click("#should button >> nth=0")
    wait_state(page, "served", "settled")
    assert "Your correction is stored." in page.inner_text("#steps")
    page.click("#retract")
    wait_state(page, "retracted")
    assert "never trains again" in page.inner_text("#steps")


def test_a_thumb_that_is_held_out_says_so_and_the_same_can_be_asked_again(page: Page):
    ask(page, "a quiet little film", held_out=True)
    page.click("#up")
    wait_state(page, "held_out")
    assert "kept to check the model with, one in ten; it is never trained on" in page.inner_text("#steps")
    page.click("#again")
    wait_state(page, "none")
    assert page.get_attribute("#up", "aria-pressed") == "false"


def test_a_text_that_cannot_be_answered_is_explained(page: Page):
    page.fill("#text", "x" * 40_000)
    page.click("#send")
    page.wait_for_selector("#error:not([hidden])")
    assert "bytes" in page.inner_text("#error")


def test_the_description_of_the_api_loads_nothing_from_elsewhere(page: Page, loop: Running):
    page.goto(f"{loop.http_url}/docs")
    page.wait_for_selector("main section")
    assert page.locator("section").count() > 10
