// The page: a text, an answer, a judgement. Knows the elements of the form and the answer; the rest is in the modules beside it.

import { Liveloop } from "/static/liveloop.js";
import { Records } from "/static/liveloop-records.js";
import "/static/liveloop-thumbs.js";
import { showGiven } from "./given.js";
import { $, bars, digits, scoreOf } from "./parts.js";
import { showStrip } from "./strip.js";

const MOST_BARS = 8; // models with many labels have a long tail of nothing
const liveloop = new Liveloop();
const records = Records.of(liveloop);
let asks = 0;

async function ask(text) {
  asks += 1;
  const mine = asks;
  $("text").value = text;
  $("error").hidden = true;
  $("send").ariaBusy = "true";
  try {
    const answer = await liveloop.predict(text);
    if (mine === asks) show(answer, text); // else it was asked again meanwhile
  } catch (problem) {
    if (mine !== asks) return;
    $("error").textContent = problem.message;
    $("error").hidden = false;
  } finally {
    if (mine === asks) $("send").ariaBusy = "false";
  }
}

function show(answer, text) {
  $("label").textContent = answer.label;
  $("score").textContent = digits(scoreOf(answer));
  $("version").textContent = `version ${answer.version}`;
  $("explored").hidden = answer.label === answer.scores[0].label;
  $("truncated").hidden = !answer.truncated;
  bars($("scores"), answer.scores.slice(0, MOST_BARS).map(({ label, score }) => ({ name: label, value: score })));
  $("thumbs").note = { text };
  $("thumbs").prediction = answer;
  $("unstored").hidden = Boolean(answer.feedback_token);
  $("answer").dataset.id = answer.prediction_id;
  $("answer").hidden = false;
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
$("thumbs").liveloop = liveloop;
showGiven(records, (text) => {
  ask(text);
  $("text").focus();
});
showStrip(liveloop, records);
