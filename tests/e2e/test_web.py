"""The browser package in a headless Chromium, under the gateway's own headers, against the running loop."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route

from liveloop.v1.inference_pb2 import FeedbackAck, Prediction
from liveloop.v1.learner_pb2 import FEEDBACK_STATE_RETRACTED, FEEDBACK_STATE_SERVED, FEEDBACK_STATE_SUPERSEDED
from services.gateway.edge import HEADERS
from services.gateway.transcoding import to_json
from tests.e2e.running import PATIENCE, Running, wait_for

HTML = """<!doctype html><html lang="en"><title>a page of somebody's own</title><script type="module" src="/own.js"></script>
<button id="before">before</button><liveloop-thumbs></liveloop-thumbs>"""
SCRIPT = """import { Liveloop, Shelf, prefix } from "/static/liveloop.js";
import "/static/liveloop-thumbs.js";
const thumbs = document.querySelector("liveloop-thumbs");
Object.assign(window, { Liveloop, Shelf, prefix, thumbs, liveloop: new Liveloop() });
thumbs.liveloop = liveloop;
if (location.hash) thumbs.setAttribute("prediction-id", location.hash.slice(1));
window.ready = true;"""
LATE_HTML = HTML.replace("/own.js", "/late.js")
LATE_SCRIPT = """const thumbs = document.querySelector("liveloop-thumbs");
thumbs.prediction = { prediction_id: "p", feedback_token: "t", label: "bad" };
thumbs.labels = ["bad", "good"];
await import("/static/liveloop-thumbs.js");
Object.assign(window, { thumbs, ready: true });"""


@pytest.fixture
def context(browser: Browser, loop: Running) -> Iterator[BrowserContext]:
    """A browser of a person's own, in which the gateway also has a page of somebody's own."""
    with browser.new_context(base_url=loop.http_url) as context:
        context.set_default_timeout(PATIENCE * 1000)
        context.route("**/own", lambda route: route.fulfill(body=HTML, content_type="text/html", headers=HEADERS))
        context.route("**/own.js", lambda route: route.fulfill(body=SCRIPT, content_type="text/javascript", headers=HEADERS))
        context.route("**/late", lambda route: route.fulfill(body=LATE_HTML, content_type="text/html", headers=HEADERS))
        context.route("**/late.js", lambda route: route.fulfill(body=LATE_SCRIPT, content_type="text/javascript", headers=HEADERS))
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """That page; afterwards, that nothing in it failed."""
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
    show(page)
    yield page
    assert faults == []


def show(page: Page, prediction_id: str = "") -> None:
    page.goto(f"/own#{prediction_id}")
    page.reload()  # a new part behind the # alone loads nothing
    wait_until(page, "window.ready")


def wait_until(page: Page, expression: str) -> None:
    """Wait until it is true. Playwright's own wait evaluates text in the page, which the policy of the page forbids."""
    wait_for(lambda: page.evaluate(expression), expression)


def give(page: Page, prediction: Prediction, **changes: object) -> str:
    """Hand an answer to the element; its id."""
    page.evaluate("prediction => { thumbs.prediction = prediction; }", to_json(prediction) | changes)
    return prediction.prediction_id


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def wait_state(page: Page, *states: str) -> str:
    """Wait for a state; what the element says of it."""
    page.wait_for_selector(", ".join(f"liveloop-thumbs[state={state}]" for state in states))
    return page.get_by_role("status").inner_text()


def record(page: Page) -> dict[str, Any]:
    return page.evaluate("thumbs.record")


def feedback_sent(context: BrowserContext) -> list[dict[str, Any]]:
    """What the context posts as feedback, as it goes on."""
    sent: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.method == "POST" and request.url.endswith("/v1/feedback"):
            sent.append(json.loads(request.post_data or "{}"))

    context.on("request", note)
    return sent


def test_the_client_that_is_served_is_at_most_five_kilobytes_compressed(loop: Running):
    served = httpx.get(f"{loop.http_url}/static/liveloop.js", trust_env=False)
    assert served.headers["content-type"].startswith("text/javascript")
    assert len(gzip.compress(served.content, 9)) <= 5 * 1024


def test_a_thumb_is_followed_from_the_click_to_the_version_that_serves_it(page: Page, loop: Running):
    prediction = loop.predict("a film that never finds its feet")
    give(page, prediction)
    button(page, "Wrong").click()
    said = wait_state(page, "served")
    served = record(page)
    status = loop.client.status(prediction.prediction_id, served["feedback_id"])
    assert status.state == FEEDBACK_STATE_SERVED
    assert said == f"Served in version {status.version}, the first that learnt from it."
    assert loop.client.model().version >= status.version > prediction.version


def test_a_change_of_mind_supersedes_and_undo_takes_back(page: Page, loop: Running):
    prediction = loop.predict("songs that a choir would be proud of")
    give(page, prediction)
    button(page, "Right").click()
    wait_state(page, "served")
    first = record(page)["feedback_id"]
    button(page, "Wrong").click()
    wait_until(page, f"thumbs.record.feedback_id !== '{first}'")
    wait_state(page, "served")
    assert button(page, "Right").get_attribute("aria-pressed") == "false"
    assert button(page, "Wrong").get_attribute("aria-pressed") == "true"
    assert loop.client.status(prediction.prediction_id, first).state == FEEDBACK_STATE_SUPERSEDED
    button(page, "Undo").click()
    assert "never trains again" in wait_state(page, "retracted")
    assert button(page, "Wrong").get_attribute("aria-pressed") == "false"
    assert not button(page, "Undo").is_visible()


def test_a_judgement_that_is_wanted_is_asked_for_until_something_was_said(page: Page, loop: Running):
    prompt = page.get_by_text("Was this right?", exact=True)
    give(page, loop.predict("not a doubt about it"), feedback_wanted=False)
    assert not prompt.is_visible()
    wanted = loop.predict("a film of which one may think this or that")
    give(page, wanted, feedback_wanted=True)
    assert prompt.is_visible()
    assert page.locator("liveloop-thumbs[wanted]").count() == 1
    button(page, "Right").click()
    wait_state(page, "unread", "joined", "trained", "served")
    assert not prompt.is_visible()
    button(page, "Undo").click()
    wait_state(page, "retracted")
    assert not prompt.is_visible(), "it asks again after an undo"
    give(page, wanted, feedback_wanted=True, feedback_token="")
    assert not prompt.is_visible(), "it asks for what cannot be said"


def test_a_label_can_be_picked_instead(page: Page, loop: Running):
    prediction = loop.predict("neither here nor there")
    give(page, prediction)
    label = prediction.scores[-1].label
    page.get_by_role("combobox").select_option(label)
    wait_state(page, "served")
    assert record(page)["signal"] == {"label": label}


def test_after_a_reload_the_id_alone_shows_what_was_said_and_lets_it_be_undone(page: Page, loop: Running):
    prediction = loop.predict("the trailer was the better film")
    give(page, prediction)
    button(page, "Right").click()
    wait_state(page, "served")
    show(page, prediction.prediction_id)
    wait_state(page, "served")
    assert button(page, "Right").get_attribute("aria-pressed") == "true"
    button(page, "Undo").click()
    wait_state(page, "retracted")
    assert loop.client.status(prediction.prediction_id, record(page)["feedback_id"]).state == FEEDBACK_STATE_RETRACTED


def test_what_is_judged_offline_is_kept_and_sent_once_when_the_network_is_back(page: Page, context: BrowserContext, loop: Running):
    give(page, loop.predict("a long train journey with no windows"))
    sent = feedback_sent(context)
    context.set_offline(True)
    button(page, "Right").click()
    assert "Kept in this browser" in wait_state(page, "queued")
    button(page, "Wrong").click()  # a change of mind: the first need not be sent any more
    wait_until(page, "thumbs.record.signal === 'down'")
    wait_state(page, "queued")
    context.set_offline(False)
    wait_state(page, "served")
    kept = record(page)["feedback_id"]
    assert sent[-1]["feedback_id"] == kept
    assert page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('liveloop:unsent:'))") == []


def test_what_the_page_could_not_send_goes_out_when_it_closes(page: Page, context: BrowserContext, loop: Running):
    prediction = loop.predict("the last thing that was said")
    give(page, prediction)
    page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('cut')); }")
    button(page, "Right").click()
    wait_state(page, "queued")
    feedback_id = record(page)["feedback_id"]
    context.new_page()  # so that the browser stays
    page.close(run_before_unload=True)
    status = loop.wait_state(prediction, FeedbackAck(feedback_id=feedback_id), FEEDBACK_STATE_SERVED)
    assert status.version > prediction.version


def test_a_gateway_that_says_when_to_come_back_is_not_asked_before_and_gets_the_same_id(page: Page, loop: Running):
    times: list[float] = []
    ids: list[str] = []

    def refuse(route: Route) -> None:
        times.append(time.monotonic())
        ids.append(json.loads(route.request.post_data or "{}")["feedback_id"])
        if len(ids) < 3:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"detail": "slower, please", "code": "RESOURCE_EXHAUSTED"})
        else:
            route.continue_()

    page.route("**/v1/feedback", refuse)
    give(page, loop.predict("too many at once"))
    button(page, "Right").click()
    wait_state(page, "served")
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert all(later - earlier >= 0.9 for earlier, later in itertools.pairwise(times))


def test_an_answer_that_was_cut_is_no_refusal_and_the_same_id_goes_again(page: Page, context: BrowserContext, loop: Running):
    sent, cut = feedback_sent(context), ["{", "<p>log in to this network</p>"]
    page.route("**/v1/feedback", lambda route: route.fulfill(status=200, body=cut.pop()) if cut else route.continue_())
    give(page, loop.predict("half an answer"))
    button(page, "Right").click()
    wait_state(page, "served")
    assert len({one["feedback_id"] for one in sent}) == 1
    assert len(sent) == 3


def test_a_forged_token_is_refused_and_says_so_also_after_a_reload(page: Page, loop: Running):
    prediction = loop.predict("who goes there")
    head, body, signature = prediction.feedback_token.split(".")
    forged = f"{head}.{body}.{signature[:-4]}{'AAAA' if signature[-4:] != 'AAAA' else 'BBBB'}"
    give(page, prediction, feedback_token=forged)
    button(page, "Right").click()
    assert wait_state(page, "rejected").startswith("Refused: ")
    show(page, prediction.prediction_id)
    assert wait_state(page, "rejected").startswith("Refused: ")


def test_the_keyboard_alone_judges_changes_and_undoes(page: Page, loop: Running):
    give(page, loop.predict("press any key"))
    page.focus("#before")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    wait_until(page, "thumbs.record?.signal === 'up'")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_until(page, "thumbs.record.signal === 'down'")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    wait_until(page, "thumbs.record.signal?.label")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    wait_until(page, "thumbs.record.signal === null")
    assert page.evaluate("thumbs.shadowRoot.activeElement.innerText") == "Right"  # the focus is not lost with the button
    wait_state(page, "retracted")


def test_a_screen_reader_is_told_names_pressed_states_and_every_new_state(page: Page, loop: Running):
    give(page, loop.predict("read to me"))
    button(page, "Right").click()
    wait_state(page, "served")
    tree = page.locator("liveloop-thumbs").aria_snapshot()
    for line in ('group "Judge this answer"', 'button "Right" [pressed]', 'button "Wrong"', 'combobox "It should be…"', "status"):
        assert line in tree, tree


def test_two_elements_for_one_answer_agree(page: Page, loop: Running):
    prediction_id = give(page, loop.predict("twice on one page"))
    page.evaluate(
        "id => { const other = document.createElement('liveloop-thumbs'); other.id = 'other'; other.liveloop = liveloop;"
        " other.setAttribute('prediction-id', id); document.body.append(other); }",
        prediction_id,
    )
    page.locator("liveloop-thumbs").first.get_by_role("button", name="Wrong").click()
    assert page.locator("#other").get_by_role("button", name="Wrong").get_attribute("aria-pressed") == "true"


def test_what_a_browser_keeps_is_bounded_and_lapses(page: Page):
    kept = page.evaluate(
        "() => { const shelf = new Shelf('test:', 3, 1); const now = Date.now();"
        " for (let i = 0; i < 6; i += 1) shelf.set(String(i), { at: now + i });"
        " shelf.set('old', { at: now - 3600001 }); return shelf.all().map(([id]) => id); }"
    )
    assert kept == ["3", "4", "5"]


def test_what_is_kept_for_one_gateway_is_no_others_and_what_cannot_be_read_hides_nothing(page: Page):
    seen = page.evaluate(
        "() => { const [one, other] = ['http://a', 'http://a:8080'].map(url => new Shelf(prefix('unsent', { url }), 9, 1));"
        " localStorage.setItem(one.prefix + 'broken', '{'); other.set('theirs', {}); one.set('ours', {});"
        " return [one, other].map(shelf => shelf.all().map(([id]) => id)); }"
    )
    assert seen == [["ours"], ["theirs"]]


def test_what_is_newer_than_a_full_storage_is_what_is_shown(page: Page):
    said = page.evaluate(
        "() => { const shelf = new Shelf('test:', 9, 1); shelf.set('one', { said: 1 });"
        " Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"
        " shelf.set('one', { said: 2 }); return shelf.get('one').said; }"
    )
    assert said == 2


def test_an_element_takes_labels_before_an_answer_and_what_was_set_before_it_was_defined(page: Page):
    page.evaluate("() => { thumbs.labels = ['bad', 'good']; thumbs.prediction = null; }")
    assert button(page, "Right").is_disabled()
    page.goto("/late")
    wait_until(page, "window.ready")
    assert button(page, "Right").is_enabled()
    assert page.get_by_role("combobox").locator("option").all_inner_texts()[1:] == ["good"]


def test_several_texts_are_answered_in_one_call_and_a_refusal_is_a_problem(page: Page):
    with page.expect_request("**/v1/predict") as asked:
        answers = page.evaluate("liveloop.predict(['one', 'two'], { tags: { page: 'own' }, notShown: true })")
    assert asked.value.post_data_json["not_shown"] is True
    assert len(answers) == 2
    problem = page.evaluate("liveloop.predict('').catch(problem => ({ ...problem }))")
    assert problem["status"] == 400
    assert problem["code"] == "INVALID_ARGUMENT"
