// The page: a text, an answer, a judgement, and the same text asked again. Knows the elements; the rest is in api.js and story.js.

import * as api from "./api.js";
import { askFrom, explain, follow, freshness, settle } from "./story.js";

const $ = (id) => document.getElementById(id);
const show = (id, shown = true) => { $(id).hidden = !shown; };
const digits = (score) => score.toFixed(2);
const top = (answer) => `${answer.label} ${digits(answer.scores[0].score)}`;

const MOST_BARS = 8; // models with many labels have a long tail of nothing
let asks = 0;
let text = "";
let answer = null;
let following = new AbortController();

function element(name, content = "", className = "") {
  const made = document.createElement(name);
  made.textContent = content;
  made.className = className;
  return made;
}

function bars(list, scores) {
  list.replaceChildren(...scores.map(({ label, score }) => {
    const item = element("li");
    const track = element("span", "", "track");
    const bar = element("span", "", "bar");
    bar.style.width = `${100 * score}%`;
    track.append(bar);
    item.append(element("span", label, "name"), track, element("span", digits(score), "value"));
    return item;
  }));
}

function fail(problem) {
  $("error").textContent = problem.message;
  show("error");
}

function forget() {
  following.abort();
  following = new AbortController();
  $("story").dataset.state = "none";
  $("steps").replaceChildren();
  $("traces").replaceChildren();
  for (const id of ["before", "first", "settled"]) $(id).textContent = "";
  for (const id of ["change", "again", "retract", "error"]) show(id, false);
  for (const button of $("judge").querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
  show("story-empty");
}

async function ask(asked) {
  asks += 1;
  const mine = asks;
  forget();
  $("send").ariaBusy = "true";
  try {
    const given = await api.predict(asked, true);
    if (mine !== asks) return; // asked again meanwhile
    forget(); // the answer before may have been judged meanwhile
    [answer, text] = [given, asked];
    showAnswer();
  } catch (problem) {
    if (mine === asks) fail(problem);
  } finally {
    if (mine === asks) $("send").ariaBusy = "false";
  }
}

function showAnswer() {
  $("label").textContent = answer.label;
  $("score").textContent = digits(answer.scores[0].score);
  $("version").textContent = `version ${answer.version}`;
  bars($("scores"), answer.scores.slice(0, MOST_BARS));
  show("truncated", answer.truncated);
  $("answer").dataset.id = answer.prediction_id;
  show("answer");
  const judged = answer.feedback_token !== "";
  show("judge", judged);
  if (!judged) fail(new Error("The log is nearly full: this answer was not kept and cannot be judged."));
  $("should").replaceChildren(...answer.scores.slice(1).map(({ label }) => {
    const button = element("button", label);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => judge(button, { correction: { label } }, "correction"));
    return button;
  }));
}

async function judge(button, signal, what) {
  forget();
  button?.setAttribute("aria-pressed", "true");
  show("story-empty", false);
  const aborted = following.signal;
  try {
    const ack = await api.sendFeedback(answer, signal);
    if (aborted.aborted) return;
    $("steps").append(element("li", `Your ${what} is stored.`));
    $("story").scrollIntoView({ block: "nearest" });
    show("retract", what !== "retraction");
    await tell(ack.feedback_id, what, aborted);
  } catch (problem) {
    if (!aborted.aborted) fail(problem);
  }
}

async function tell(feedbackId, what, aborted) {
  const status = await follow(answer, feedbackId, aborted, (now) => {
    $("story").dataset.state = now.state;
    $("steps").append(element("li", explain(now)));
  });
  if (!status) return;
  if (status.state !== "served") {
    show("again", status.state === "held_out" || status.state === "quarantined");
    return;
  }
  const first = await askFrom(status.version, text, aborted);
  if (aborted.aborted) return;
  compare("before", "before", answer, `${top(answer)} (version ${answer.version})`);
  const when = `first included ${freshness(status).toFixed(1)} s after your ${what === "correction" ? what : "thumb"}`;
  const which = first.version === status.version ? `version ${first.version}, ${when}` : `version ${first.version}; ${when}, in version ${status.version}`;
  compare("first", "first", first, ` → ${top(first)} (${which})`);
  const quiet = await settle(aborted);
  const settled = await askFrom(status.version, text, aborted);
  if (aborted.aborted) return;
  compare("settled", quiet ? "settled" : "now", settled, ` → ${quiet ? "settled" : "still learning"} ${top(settled)} (version ${settled.version})`);
  $("story").dataset.state = "settled";
  show("again");
}

/** Add one stage: its words, and the probabilities of the labels in the order of the first answer. */
function compare(id, name, given, words) {
  $(id).textContent = words;
  show("change");
  const trace = element("div", "", "trace");
  const list = element("ul", "", "bars");
  trace.append(element("p", `${name}, version ${given.version}`, "hint"), list);
  const score = new Map(given.scores.map((one) => [one.label, one.score]));
  bars(list, answer.scores.slice(0, MOST_BARS).map(({ label }) => ({ label, score: score.get(label) ?? 0 })));
  $("traces").append(trace);
}

async function watch() {
  for (;;) {
    if (!document.hidden) {
      try {
        const now = await api.model();
        $("serving").textContent = `${now.model} · version ${now.version} · blessed ${now.blessed_version}`;
        $("serving").dataset.live = "yes";
      } catch (problem) {
        $("serving").textContent = problem.message;
        $("serving").dataset.live = "no";
      }
    }
    await api.wait(1000);
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask($("text").value);
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("up").addEventListener("click", () => judge($("up"), { thumb: "up" }, "thumb"));
$("down").addEventListener("click", () => judge($("down"), { thumb: "down" }, "thumb"));
$("retract").addEventListener("click", () => judge(null, { retraction: {} }, "retraction"));
$("again").addEventListener("click", async () => {
  await ask(text);
  $("up").focus(); // the button that had the focus is gone
});
watch();
