// The calls to the gateway. Knows the contract's JSON; knows nothing of the page.

export const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A refusal: RFC 9457 problem details, or a gateway that cannot be reached (status 0). */
export class Problem extends Error {
  constructor(status, body, retryAfter = 1) {
    super(body.detail || `HTTP ${status}`);
    Object.assign(this, { status, code: body.code, retryAfter });
  }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Problem(0, { code: "UNAVAILABLE", detail: "The gateway cannot be reached; is liveloop still running?" });
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, body, Number(response.headers.get("Retry-After")) || 1);
  return body;
}

const post = (path, body) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** A random UUID; crypto.randomUUID is missing where the page is not on localhost and not https. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

const session = uuid(); // one judge for as long as the page is open

export const model = () => call("/v1/model");

export async function predict(text, store) {
  return (await post("/v1/predict", { text, session_id: session, store })).predictions[0];
}

/** Send one feedback, a few times if need be: always with the same id, so that it counts once. Its ack. */
export async function sendFeedback(prediction, signal) {
  const feedback = {
    feedback_id: uuid(),
    prediction_id: prediction.prediction_id,
    feedback_token: prediction.feedback_token,
    created_at: new Date().toISOString(),
    ...signal,
  };
  for (let tried = 1; ; tried += 1) {
    try {
      return (await post("/v1/feedback", feedback)).acks[0];
    } catch (problem) {
      if (tried === 4 || ![0, 429, 503, 504].includes(problem.status)) throw problem;
      await wait(problem.status === 429 ? problem.retryAfter * 1000 : 200 * 2 ** tried);
    }
  }
}

/** What became of a feedback; `unread` where the learner does not know it yet, `away` where the learner cannot be asked. */
export async function feedbackStatus(predictionId, feedbackId) {
  try {
    return await call(`/v1/feedback/${encodeURIComponent(predictionId)}/${encodeURIComponent(feedbackId)}`);
  } catch (problem) {
    if (problem.status === 404) return { state: "unread" };
    if ([0, 429, 503, 504].includes(problem.status)) return { state: "away" };
    throw problem;
  }
}
