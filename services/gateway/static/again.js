// Asks the same text again once a judgement is served: the answer of the first version that includes it, and the answer once learning
// is quiet. Knows records and the client, no element.

const QUIET_MS = 1500; // the loop settles in steps of a fraction of a second: quiet for longer means done
const LIMIT_MS = 20000; // others may keep it learning
const running = new Map(); // prediction id to the judgement that is compared

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The label whose probability a judgement is about. */
export const watched = ({ signal, prediction }) => signal?.label ?? prediction.label;

/** Seconds from the acceptance of a judgement to the first answer that could include it, by the server's clock. */
export function freshness({ served_at, accepted_at }) {
  return Math.max(0, (Date.parse(served_at) - Date.parse(accepted_at)) / 1000);
}

/** What was found on asking again, as far as it is about the judgement that stands: { first, settled, quiet }. */
export function found({ note, feedback_id }) {
  return note?.about === feedback_id ? note : {};
}

/** Ask again and keep what is found in the record's note; nothing where that is done, under way, or has no cause. */
export async function askAgain(records, record) {
  const { prediction: { prediction_id }, feedback_id, status, signal, note } = record;
  const idle = !note?.text || signal === null || status.state !== "served" || found(record).settled || running.get(prediction_id) === feedback_id;
  if (idle) return;
  running.set(prediction_id, feedback_id);
  const stands = () => records.get(prediction_id)?.feedback_id === feedback_id;
  const keep = (more) => stands() && records.annotate(prediction_id, { ...found(records.get(prediction_id)), text: note.text, about: feedback_id, ...more });
  try {
    const first = await askFrom(records.liveloop, status.version, note.text, stands);
    keep({ first: stage(first, watched(record)) });
    const quiet = await settle(records.liveloop, stands);
    const settled = await askFrom(records.liveloop, status.version, note.text, stands);
    keep({ settled: stage(settled, watched(record)), quiet });
  } catch {
    await wait(2000); // the gateway is away or asks for patience
    running.delete(prediction_id);
    if (stands()) await askAgain(records, records.get(prediction_id));
  } finally {
    if (running.get(prediction_id) === feedback_id) running.delete(prediction_id);
  }
}

function stage({ version, label, scores }, name) {
  return { version, label, score: scores[0].score, watched: scores.find((one) => one.label === name)?.score ?? 0 };
}

/** The answer by a version of at least `version`: with several processes, not all flip at once. */
async function askFrom(liveloop, version, text, stands) {
  for (;;) {
    const answer = await liveloop.predict(text, { store: false });
    if (answer.version >= version || !stands()) return answer;
    await wait(100);
  }
}

/** Wait until the version has not changed for a while; false when it still changes after the limit. */
async function settle(liveloop, stands) {
  const started = performance.now();
  let version = 0;
  let since = started;
  while (stands() && performance.now() - started < LIMIT_MS) {
    const now = (await liveloop.model()).version;
    if (now !== version) [version, since] = [now, performance.now()];
    if (performance.now() - since >= QUIET_MS) return true;
    await wait(250);
  }
  return false;
}
