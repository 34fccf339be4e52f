// The strip of versions, live, and how fresh the model is. Knows the client, the records and the elements of the strip.

import { freshness } from "./again.js";
import { $, ago, element, seconds } from "./parts.js";

const SHOWN = 48;
const EVERY_MS = 1500;
const KINDS = { init: "the first", train: "learnt", settle: "settling", consolidate: "consolidated", reset: "rolled back", rebase: "rebuilt" };

/** Show the versions from now on; asks nothing while the page is hidden. */
export async function showStrip(liveloop, records) {
  for (;;) {
    let pause = EVERY_MS;
    if (!document.hidden) {
      const [model, versions] = await Promise.allSettled([liveloop.model(), liveloop.versions(SHOWN)]);
      showModel(model);
      showVersions(versions);
      showFreshness(records);
      pause = Math.max(EVERY_MS, ...[model, versions].map(({ reason }) => 1000 * (reason?.retryAfter ?? 0)));
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function showModel({ value, reason }) {
  $("serving").textContent = value ? value.model : reason.message;
  $("serving").dataset.live = value ? "yes" : "no";
  if (!value) return;
  $("now").textContent = value.version;
  $("blessed").textContent = value.blessed_version;
}

function showVersions({ value, reason }) {
  $("strip-note").textContent = reason ? `The versions cannot be shown: ${reason.message}` : "";
  if (!value?.length) return;
  const newest = value[0];
  const accuracy = value.find((one) => one.accuracy !== undefined)?.accuracy;
  $("accuracy").textContent = accuracy === undefined ? "–" : `${(100 * accuracy).toFixed(1)} %`;
  $("age").textContent = newest.created_at ? ago(Date.parse(newest.created_at)) : "–";
  $("ticks").replaceChildren(...value.reverse().map(tick));
}

function tick(one) {
  const thumbs = one.feedback === 1 ? "1 judgement" : `${one.feedback} judgements`;
  const marks = [one.current && "current", one.blessed && "blessed", one.state === "rolled_back" && "rolled back later"].filter(Boolean);
  const words = [`version ${one.version}`, KINDS[one.kind] ?? one.kind, one.feedback ? thumbs : "", ...marks].filter(Boolean).join(", ");
  const made = element("li", element("span", words, "unseen"));
  made.title = words;
  made.dataset.kind = one.kind;
  made.toggleAttribute("data-blessed", one.blessed);
  made.toggleAttribute("data-current", one.current);
  made.style.setProperty("--height", one.feedback ? Math.min(1, 0.55 + 0.12 * one.feedback) : 0.35);
  return made;
}

function showFreshness(records) {
  const served = records.all().find(({ status }) => status.served_at && status.accepted_at);
  $("fresh").textContent = served ? seconds(freshness(served.status)) : "–";
}
