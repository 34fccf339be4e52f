// What becomes of one judgement: follows it until it is served and settled. Knows the calls, not the page.

import { feedbackStatus, model, predict, wait } from "./api.js";

const ENDS = new Set(["served", "held_out", "superseded", "retracted", "quarantined", "expired", "rejected"]);
const SETTLED_MS = 1500; // the loop settles in steps of a fraction of a second: quiet for longer means done
const SETTLE_LIMIT_MS = 20000; // others may keep it learning

const because = (reason) => (reason ? `: ${reason}` : ".");

/** One sentence on a state. */
export function explain(status) {
  const sentences = {
    unread: "The learner has not read it yet.",
    away: "The learner is away; it will take it up when it is back.",
    pending: "Read; it waits for the record of the answer.",
    joined: "Joined with the answer; it waits for the next step.",
    trained: `Step ${status.step} learnt from it; version ${status.version} is on its way.`,
    served: `Step ${status.step} learnt from it; version ${status.version} is the first that includes it.`,
    held_out: "Held out: kept to check the model with, one in ten; it is never trained on.",
    superseded: "Superseded: something said later about this answer counts instead.",
    retracted: "Taken back: it never trains again. What it already taught stays until a rebuild.",
    quarantined: `Set aside by the guard${because(status.reason)}`,
    expired: `Too late: the time in which an answer can be judged is over${because(status.reason)}`,
    rejected: `It cannot be used${because(status.reason)}`,
  };
  return sentences[status.state] || `It is ${status.state}.`;
}

/** Poll until a state that lasts; `onState` gets every new one. Null when `signal` (an AbortSignal) ended it first. */
export async function follow(prediction, feedbackId, signal, onState) {
  const started = performance.now();
  let last = "";
  while (!signal.aborted) {
    const status = await feedbackStatus(prediction.prediction_id, feedbackId);
    if (signal.aborted) break;
    if (status.state !== last) onState(status);
    if (ENDS.has(status.state)) return status;
    last = status.state;
    await wait(performance.now() - started < 10000 ? 100 : 1000);
  }
  return null;
}

/** Seconds from the acceptance of a feedback to the first answer that could include it, by the server's clock. */
export function freshness(status) {
  return Math.max(0, (Date.parse(status.served_at) - Date.parse(status.accepted_at)) / 1000);
}

/** The answer to the same text by a version of at least `version`: with several processes, not all flip at once. */
export async function askFrom(version, text, signal) {
  for (;;) {
    const answer = await predict(text, false);
    if (answer.version >= version || signal.aborted) return answer;
    await wait(100);
  }
}

/** Wait until the version has not changed for a while; false when it still changes after the limit. */
export async function settle(signal) {
  const started = performance.now();
  let version = 0;
  let since = started;
  while (!signal.aborted && performance.now() - started < SETTLE_LIMIT_MS) {
    const now = (await model()).version;
    if (now !== version) [version, since] = [now, performance.now()];
    if (performance.now() - since >= SETTLED_MS) return true;
    await wait(250);
  }
  return false;
}
