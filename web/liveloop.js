// A browser's side of a liveloop gateway: answers, judgements, and what became of them. Knows the contract's JSON and what is
// still unsent; knows no page and no element.

const FINAL = new Set(["served", "held_out", "superseded", "retracted", "quarantined", "expired", "rejected"]);
const TEMPORARY = new Set([0, 429, 502, 503, 504]); // the same call may go through later; 0: nobody answered
const MOST_UNSENT = 100;
const LONGEST_WAIT = 30_000; // milliseconds between two tries
const LONGEST_CALL = 30_000; // milliseconds; on a connection that is half open a browser itself waits for minutes

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A refusal: problem details (RFC 9457), or a gateway that cannot be reached (status 0). `retryAfter` is in seconds, 0 where not said. */
export class Problem extends Error {
  constructor(status, body, retryAfter = 0) {
    super(body.detail || `HTTP ${status}`);
    Object.assign(this, { name: "Problem", status, code: body.code || "", retryAfter, temporary: TEMPORARY.has(status) });
  }
}

/** A random UUID; crypto.randomUUID is missing where the page is neither on localhost nor on https. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** What the names in localStorage begin with, for one gateway: encoded, so that no gateway's begin with another's. */
export const prefix = (kind, { url }) => `liveloop:${kind}:${encodeURIComponent(url)}:`;

/** Things kept in localStorage, or in memory where that is refused: at most `limit`, each for `hours`, the oldest leave first. */
export class Shelf {
  #memory = new Map();

  constructor(prefix, limit, hours) {
    Object.assign(this, { prefix, limit, hours });
  }

  /** All that is kept, oldest first, as [id, value]. */
  all() {
    const kept = new Map();
    try {
      for (const key of Object.keys(localStorage)) {
        if (key.startsWith(this.prefix)) kept.set(key.slice(this.prefix.length), read(key));
      }
    } catch { /* storage is off */ }
    for (const [id, one] of this.#memory) kept.set(id, one); // newer than what is stored
    const oldest = Date.now() - this.hours * 3_600_000;
    return [...kept].filter(([id, one]) => one?.at > oldest || this.delete(id)).sort(([, one], [, other]) => one.at - other.at);
  }

  get(id) {
    return this.all().find(([one]) => one === id)?.[1];
  }

  set(id, value) {
    const kept = { at: Date.now(), ...value };
    this.#memory.delete(id);
    try {
      localStorage.setItem(this.prefix + id, JSON.stringify(kept));
    } catch {
      this.#memory.set(id, kept);
    }
    const all = this.all();
    for (const [old] of all.slice(0, Math.max(0, all.length - this.limit))) this.delete(old);
    return kept;
  }

  delete(id) {
    this.#memory.delete(id);
    try {
      localStorage.removeItem(this.prefix + id);
    } catch { /* storage is off */ }
    return false;
  }
}

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null; // another script wrote there
  }
}

/** One gateway. A judgement is kept here until the gateway has it, over reloads too, and is always sent with the same id: it counts once. */
export class Liveloop {
  #unsent;
  #waiting = new Map(); // feedback id to the caller that waits for its first try
  #draining = false;
  #limited = false; // the gateway said when to come back
  #nudge = () => {};

  /** `headers` go with every call but a beacon. `windowHours` is the server's feedback window: what is older is not sent any more. */
  constructor({ url = "", sessionId = uuid(), headers = {}, windowHours = 24 } = {}) {
    Object.assign(this, { url: url.replace(/\/$/, ""), sessionId, headers, windowHours });
    this.#unsent = new Shelf(prefix("unsent", this), MOST_UNSENT, windowHours);
    addEventListener("online", () => this.#drain());
    document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && this.#beacon());
    this.#drain();
  }

  /** The answer to a text, or the answers to a list of texts. `notShown`: perhaps nobody sees it, so silence says nothing. */
  async predict(text, { user, sessionId = this.sessionId, tags, store, notShown } = {}) {
    const inputs = [text].flat().map((one) => ({ text: one }));
    const { predictions } = await this.#call("/v1/predict", { inputs, user, session_id: sessionId, tags, store, not_shown: notShown });
    return Array.isArray(text) ? predictions : predictions[0];
  }

  /**
   * Judge an answer: "up", "down", a rating from 0 to 1, { label } for what it should have been, or null to take back what was said.
   * Resolves to the ack; its status is "queued" where the gateway cannot take it now. Throws a Problem where it is refused.
   */
  async feedback(prediction, signal, { reasons, comment, feedbackId = uuid() } = {}) {
    const { prediction_id, feedback_token } = prediction;
    const body = { feedback_id: feedbackId, prediction_id, feedback_token, created_at: new Date().toISOString(), reasons, comment };
    for (const [id, one] of this.#unsent.all()) if (one.body.prediction_id === prediction_id) this.#unsent.delete(id); // a change of mind
    this.#unsent.set(feedbackId, { body: { ...body, ...asSignal(signal) } });
    const tried = new Promise((resolve, reject) => this.#waiting.set(feedbackId, { resolve, reject }));
    if (this.#limited) this.#queued();
    this.#drain();
    return tried;
  }

  /** What became of a judgement. Beside the contract's states: `queued` here, `unread` by the learner, `away` where nobody can be asked. */
  async status(predictionId, feedbackId) {
    const kept = this.#unsent.get(feedbackId);
    if (kept) return kept.refused ? { state: "rejected", reason: kept.refused } : { state: "queued" };
    try {
      return await this.#call(`/v1/feedback/${encodeURIComponent(predictionId)}/${encodeURIComponent(feedbackId)}`);
    } catch (problem) {
      if (problem.status === 404) return { state: "unread" };
      if (problem.temporary) return { state: "away", retryAfter: problem.retryAfter };
      throw problem;
    }
  }

  /** Ask for the status until it is final; `onState` gets each new one. Null where `signal`, an AbortSignal, ended it first. */
  async follow(predictionId, feedbackId, { signal, onState = () => {} } = {}) {
    let last = "";
    for (let asked = 0; !signal?.aborted; asked += 1) {
      const status = await this.status(predictionId, feedbackId);
      if (signal?.aborted) break;
      if (status.state !== last) onState(status);
      if (FINAL.has(status.state)) return status;
      last = status.state;
      await sleep(Math.max(1000 * (status.retryAfter || 0), Math.min(5000, 150 * 1.03 ** asked)));
    }
    return null;
  }

  /** What is served now, and its limits. */
  model() {
    return this.#call("/v1/model");
  }

  /** The newest versions, newest first. */
  async versions(limit = 20) {
    return (await this.#call(`/v1/versions?limit=${limit}`)).versions;
  }

  async #call(path, body) {
    const headers = body ? { "Content-Type": "application/json", ...this.headers } : this.headers;
    const signal = AbortSignal.timeout(LONGEST_CALL);
    let response, answer;
    try {
      response = await fetch(this.url + path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
      answer = await response.json().catch((cut) => {
        if (response.ok) throw cut; // it may have been taken: the same call says so
        return {};
      });
    } catch {
      throw new Problem(0, { code: "UNAVAILABLE", detail: "The gateway cannot be reached; is liveloop still running?" });
    }
    if (!response.ok) throw new Problem(response.status, answer, Number(response.headers.get("Retry-After")) || 0);
    return answer;
  }

  /** Send what is unsent, oldest first and one at a time: of two judgements the one that arrives later counts. */
  async #drain() {
    this.#nudge();
    if (this.#draining) return;
    this.#draining = true;
    for (let failed = 0, next; (next = this.#unsent.all().find(([, one]) => !one.refused)); ) {
      const [id, { at, body }] = next;
      try {
        const { acks } = await this.#call("/v1/feedback", body);
        this.#unsent.delete(id);
        this.#tried(id, "resolve", acks[0]);
        failed = 0;
      } catch (problem) {
        if (problem.temporary) {
          failed += 1;
          await this.#pause(problem.retryAfter, failed);
        } else {
          if (this.#unsent.get(id)) this.#unsent.set(id, { at, body: { prediction_id: body.prediction_id }, refused: problem.message });
          this.#tried(id, "reject", problem);
        }
      }
    }
    this.#queued(); // what another tab has sent meanwhile
    this.#draining = false;
  }

  /** Wait as long as the gateway said; else longer each time, and only until the network is back or somebody judges again. */
  async #pause(retryAfter, failed) {
    this.#queued();
    this.#limited = retryAfter > 0;
    const nudged = new Promise((resolve) => { this.#nudge = resolve; });
    const backoff = Math.min(LONGEST_WAIT, 200 * 2 ** failed) * (0.5 + Math.random() / 2);
    await (this.#limited ? sleep(1000 * retryAfter) : Promise.race([sleep(backoff), nudged]));
    this.#limited = false;
  }

  #tried(id, how, outcome) {
    this.#waiting.get(id)?.[how](outcome);
    this.#waiting.delete(id);
  }

  #queued() {
    for (const id of [...this.#waiting.keys()]) this.#tried(id, "resolve", { feedback_id: id, status: "queued" });
  }

  /** The page may close now. What is sent here stays kept: whether it arrived is found out by sending it again. */
  #beacon() {
    for (const [, { body, refused }] of this.#unsent.all()) {
      if (!refused) navigator.sendBeacon(`${this.url}/v1/feedback`, new Blob([JSON.stringify(body)], { type: "text/plain" }));
    }
  }
}

function asSignal(signal) {
  if (signal === null) return { retraction: {} };
  if (typeof signal === "number") return { rating: signal };
  return typeof signal === "string" ? { thumb: signal } : { correction: { label: signal.label } };
}
