// "Your thumbs": what was judged in this browser, what became of it, and the answer before and after. Knows records and the list.

import { askAgain, found, freshness, watched } from "./again.js";
import { $, bars, digits, element, scoreOf, seconds } from "./parts.js";

const MOST_SHOWN = 30;
const items = new Map(); // prediction id to its list item

/** Show the list and keep it up to date; `ask` asks a text again. */
export function showGiven(records, ask) {
  const refresh = ({ detail }) => {
    const record = records.get(detail);
    if (!record) items.get(detail)?.remove();
    if (!record) items.delete(detail);
    else update(records, record, ask);
    showEmpty();
  };
  for (const record of records.all().slice(0, MOST_SHOWN).reverse()) update(records, record, ask);
  showEmpty();
  records.addEventListener("change", refresh);
  $("clear").addEventListener("click", () => {
    records.clear();
    $("text").focus(); // the button that had the focus is gone
  });
}

function showEmpty() {
  $("given-empty").hidden = items.size > 0;
  $("clear").hidden = items.size === 0;
}

function update(records, record, ask) {
  const id = record.prediction.prediction_id;
  if (!items.has(id)) {
    items.set(id, make(records, record, ask));
    $("given").prepend(items.get(id));
    for (const [old, item] of [...items].slice(0, -MOST_SHOWN)) {
      item.remove();
      items.delete(old);
    }
  }
  const item = items.get(id);
  const { first, settled } = found(record);
  item.dataset.state = record.status.state;
  item.dataset.compared = settled ? "settled" : first ? "first" : "";
  compare(item, record);
  askAgain(records, record);
}

function make(records, record, ask) {
  const { prediction, note } = record;
  const item = element("li");
  const thumbs = document.createElement("liveloop-thumbs");
  thumbs.liveloop = records.liveloop;
  thumbs.prediction = prediction;
  const text = element("p", note?.text ?? "", "said");
  const moment = new Date(record.at);
  const today = moment.toDateString() === new Date().toDateString();
  const when = moment.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
  const answered = element("p", [element("strong", prediction.label), ` ${digits(scoreOf(prediction))} · version ${prediction.version} · ${when}`], "hint");
  const again = element("button", "Ask again", "quiet");
  again.type = "button";
  again.addEventListener("click", () => ask(note.text));
  const change = element("div", [element("p"), element("ul", "", "bars")], "change");
  item.append(element("div", [text, again], "top"), answered, thumbs, change);
  return item;
}

/** The answer before and after: one sentence, and how likely the judged label was each time. */
function compare(item, record) {
  const { first, settled, quiet } = found(record);
  const change = item.querySelector(".change");
  change.hidden = !first;
  if (!first) return;
  const name = watched(record);
  const { prediction, signal, status } = record;
  const before = prediction.scores.find(({ label }) => label === name)?.score ?? 0;
  const last = settled ?? first;
  const flipped = last.label === prediction.label ? `still ${last.label}` : `now ${last.label}`;
  const what = typeof signal === "object" ? "correction" : "thumb";
  change.querySelector("p").textContent = `First included ${seconds(freshness(status))} after your ${what}; the same text is ${flipped}.`;
  bars(change.querySelector(".bars"), [
    { name: "before", value: before, hint: `version ${prediction.version}` },
    { name: "first", value: first.watched, hint: `version ${first.version}` },
    ...(settled ? [{ name: quiet ? "settled" : "later", value: settled.watched, hint: `version ${settled.version}` }] : []),
  ]);
  change.querySelector(".bars").ariaLabel = `Probability of ${name}`;
}
