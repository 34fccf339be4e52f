// The judgements given in this browser, each followed to its end. Knows what to remember of an answer; knows no element.

import { Problem, Shelf, prefix, uuid } from "./liveloop.js";

const MOST_RECORDS = 100;
const DAYS = 30;
const stores = new WeakMap();

/**
 * One record for each answer that was judged here: { at, prediction, signal, feedback_id, status, note }. Emits `change`, whose detail is
 * the id of the prediction, also for what another tab does.
 */
export class Records extends EventTarget {
  #shelf;
  #following = new Map(); // prediction id to what ends its following

  /** The one store of a Liveloop. */
  static of(liveloop) {
    if (!stores.has(liveloop)) stores.set(liveloop, new Records(liveloop));
    return stores.get(liveloop);
  }

  constructor(liveloop) {
    super();
    this.liveloop = liveloop;
    this.#shelf = new Shelf(prefix("thumb", liveloop), MOST_RECORDS, 24 * DAYS);
    addEventListener("storage", ({ key }) => {
      if (key?.startsWith(this.#shelf.prefix)) this.#tell(key.slice(this.#shelf.prefix.length));
    });
  }

  /** All records, newest first. */
  all() {
    return this.#shelf.all().map(([, record]) => record).reverse();
  }

  get(predictionId) {
    return this.#shelf.get(predictionId);
  }

  /** Judge an answer, as Liveloop.feedback, and follow it. `note` is kept with the record: the text, for example. */
  async judge(prediction, signal, { note, ...options } = {}) {
    const { prediction_id, feedback_token, version, label, scores } = prediction;
    const before = this.get(prediction_id);
    const feedback_id = uuid();
    this.#put({
      at: before?.at ?? Date.now(),
      prediction: { prediction_id, feedback_token, version, label, scores },
      signal,
      feedback_id,
      status: { state: "sending" },
      note: note ?? before?.note,
    });
    this.#end(prediction_id);
    await this.liveloop.feedback(prediction, signal, { ...options, feedbackId: feedback_id }).catch((problem) => {
      if (!(problem instanceof Problem)) throw problem; // a refusal is kept, and told as the status
    });
    if (this.get(prediction_id)?.feedback_id === feedback_id) this.follow(prediction_id);
  }

  /** Follow a record on, after a reload; asks at least once, as what was final may have been rolled back since. */
  async follow(predictionId) {
    const record = this.get(predictionId);
    if (!record || this.#following.has(predictionId)) return;
    const mine = new AbortController();
    this.#following.set(predictionId, mine);
    const onState = (status) => {
      const known = this.get(predictionId);
      const lapsed = known?.status.step && ["unread", "away"].includes(status.state); // what it was told before says more
      if (known && !lapsed) this.#put({ ...known, status });
    };
    try {
      await this.liveloop.follow(predictionId, record.feedback_id, { signal: mine.signal, onState });
    } catch (problem) {
      onState({ state: "away", reason: problem.message });
    }
    if (this.#following.get(predictionId) === mine) this.#following.delete(predictionId);
  }

  /** Keep something else with a record. */
  annotate(predictionId, note) {
    const record = this.get(predictionId);
    if (record) this.#put({ ...record, note });
  }

  /** Forget all records here; what was sent stays sent. */
  clear() {
    for (const [id] of this.#shelf.all()) {
      this.#end(id);
      this.#shelf.delete(id);
      this.#tell(id);
    }
  }

  #end(predictionId) {
    this.#following.get(predictionId)?.abort();
    this.#following.delete(predictionId);
  }

  #put(record) {
    this.#shelf.set(record.prediction.prediction_id, record);
    this.#tell(record.prediction.prediction_id);
  }

  #tell(predictionId) {
    this.dispatchEvent(new CustomEvent("change", { detail: predictionId }));
  }
}
