// <liveloop-thumbs>: thumbs, a label picker and undo for one answer, and what became of the judgement. Knows the elements; the records
// and the gateway are in the modules beside it.

import { Liveloop } from "./liveloop.js";
import { Records } from "./liveloop-records.js";

const because = (reason) => (reason ? `: ${reason}` : ".");

/** One sentence for each state; replace any of them to translate it. */
export const sentences = {
  sending: () => "Sending…",
  queued: () => "Kept in this browser; it is sent when the connection is back.",
  unread: () => "Stored. The learner has not read it yet.",
  away: () => "Stored. The learner is away; it takes this up when it is back.",
  pending: () => "Stored. It waits for the record of the answer.",
  joined: () => "Learning: it waits for the next step.",
  trained: ({ step, version }) => `Learnt in step ${step}; version ${version} is on its way.`,
  served: ({ version }) => `Served in version ${version}, the first that learnt from it.`,
  held_out: ({ reason }) => `Held out: ${reason || "kept to check the model with, one in ten"}; it is never trained on.`,
  superseded: () => "Superseded: something said later about this answer counts instead.",
  retracted: () => "Taken back: it never trains again. What it already taught stays until a rebuild.",
  quarantined: ({ reason }) => `Set aside by the guard${because(reason)}`,
  expired: ({ reason }) => `Too late: the time in which an answer can be judged is over${because(reason)}`,
  rejected: ({ reason }) => `Refused${because(reason)}`,
};

/** The words on the controls; replace any of them before the first element is made. */
export const words = { group: "Judge this answer", ask: "Was this right?", up: "Right", down: "Wrong", pick: "It should be…", undo: "Undo" };

const thumb = "M2 10h4v11H2zM8 21V10l5-8c1.7 0 3 1.3 2.7 3L15 9h5.5A2 2 0 0 1 22.4 11.4l-2 8A2 2 0 0 1 18.5 21z";
const icon = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${thumb}"/></svg>`;
const frame = `<p part="prompt" hidden></p><div part="group" role="group">
  <button part="button up" type="button" data-say="up">${icon}<span></span></button>
  <button part="button down" type="button" data-say="down">${icon}<span></span></button>
  <select part="picker"></select>
  <button part="button undo" type="button"></button>
</div><p part="status" role="status"></p>`;

// Ink and ground are the page's own; the two colours follow its color-scheme. Names with an underscore are no business of the page.
const look = new CSSStyleSheet();
look.replaceSync(`
  :host { display: block; --_up: var(--liveloop-up, light-dark(#0f766e, #4fd1c1)); --_down: var(--liveloop-down, light-dark(#b42318, #ff9b8e));
    --_edge: var(--liveloop-edge, color-mix(in srgb, currentcolor 45%, transparent)); }
  :host([hidden]), [hidden] { display: none !important; }
  [part~=group] { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
  button, select { box-sizing: border-box; min-height: 2.4rem; max-width: 100%; padding: .3rem .8rem; border: 1px solid var(--_edge);
    border-radius: var(--liveloop-radius, .6rem); background: var(--liveloop-ground, transparent); color: inherit; font: inherit; cursor: pointer; }
  select { flex: 0 1 11rem; min-width: 0; text-overflow: ellipsis; }
  option { background: Canvas; color: CanvasText; }
  button:disabled, select:disabled { opacity: .55; cursor: default; }
  :focus-visible { outline: 3px solid var(--liveloop-focus, Highlight); outline-offset: 2px; }
  svg { width: 1.2em; height: 1.2em; margin-right: .4em; vertical-align: -.2em; fill: currentcolor; transition: transform .15s; }
  [data-say=up] svg { color: var(--_up); }
  [data-say=down] svg { color: var(--_down); transform: rotate(180deg); }
  [data-say=up][aria-pressed=true] { border-color: var(--_up); box-shadow: inset 0 0 0 1px var(--_up); }
  [data-say=down][aria-pressed=true] { border-color: var(--_down); box-shadow: inset 0 0 0 1px var(--_down); }
  select[data-chosen] { border-color: currentcolor; box-shadow: inset 0 0 0 1px currentcolor; }
  [aria-pressed=true] svg { transform: scale(1.15); }
  [data-say=down][aria-pressed=true] svg { transform: rotate(180deg) scale(1.15); }
  [part=prompt] { margin: 0 0 .5rem; font-weight: 600; }
  [part=prompt]:not([hidden]) + [part~=group] [data-say] { border-color: currentcolor; border-width: 2px; }
  [part=status] { margin: .5rem 0 0; font-size: .88em; overflow-wrap: anywhere; }
  [part=status]:empty { display: none; }
  [part=status]::before { content: ""; display: inline-block; width: .55em; height: .55em; margin-right: .5em; border-radius: 50%; background: var(--_edge); }
  :host([state=served]) [part=status]::before { background: var(--_up); }
  :host(:is([state=rejected], [state=expired], [state=quarantined])) [part=status]::before { background: var(--_down); }
  @media (prefers-reduced-motion: reduce) { svg { transition: none; } }
`);

/**
 * Set `prediction` to an answer; `labels` where its scores do not name all, `note` to have something kept with the record. After a
 * reload the attribute `prediction-id` alone is enough. `liveloop` or the attribute `url` says where the gateway is. With the attribute
 * `wanted`, which an answer with `feedback_wanted` sets, the element asks, until something was said. The attribute `state` shows the
 * state; the event `liveloop-state` tells of a new one, with the record as its detail.
 */
export class LiveloopThumbs extends HTMLElement {
  static observedAttributes = ["prediction-id", "feedback-token", "wanted"];
  static #clients = new Map(); // one for each url
  #prediction = null;
  #labels = null;
  #records = null;
  #parts = {};
  #onChange = ({ detail }) => detail === this.prediction?.prediction_id && this.#show();

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [look];
    root.innerHTML = frame;
    const [up, down] = root.querySelectorAll("[data-say]");
    const [prompt, pick, undo, status] = ["prompt", "picker", "undo", "status"].map((part) => root.querySelector(`[part~=${part}]`));
    this.#parts = { prompt, up, down, pick, undo, status };
    prompt.textContent = words.ask;
    root.querySelector("[role=group]").ariaLabel = words.group;
    for (const side of [up, down]) {
      side.querySelector("span").textContent = words[side.dataset.say];
      side.addEventListener("click", () => this.judge(this.record?.signal === side.dataset.say ? null : side.dataset.say));
    }
    this.#parts.pick.ariaLabel = words.pick;
    this.#parts.pick.addEventListener("change", ({ target }) => this.judge(target.value ? { label: target.value } : null));
    this.#parts.undo.textContent = words.undo;
    this.#parts.undo.addEventListener("click", () => {
      this.judge(null);
      up.focus(); // the button that had the focus goes
    });
  }

  get prediction() {
    const id = this.getAttribute("prediction-id");
    return this.#prediction ?? (id && (this.#records?.get(id)?.prediction ?? { prediction_id: id, feedback_token: this.getAttribute("feedback-token") }));
  }

  set prediction(prediction) {
    this.#prediction = prediction;
    this.toggleAttribute("wanted", Boolean(prediction?.feedback_wanted));
    this.#renew();
  }

  get labels() {
    return this.#labels ?? this.prediction?.scores?.map(({ label }) => label) ?? [];
  }

  set labels(labels) {
    this.#labels = labels;
    this.#renew();
  }

  get liveloop() {
    return this.#records?.liveloop;
  }

  set liveloop(liveloop) {
    this.#records?.removeEventListener("change", this.#onChange);
    this.#records = Records.of(liveloop);
    this.#records.addEventListener("change", this.#onChange);
    this.#renew();
  }

  /** What this browser remembers of the judgement; undefined where none was given. */
  get record() {
    return this.prediction ? this.#records?.get(this.prediction.prediction_id) : undefined;
  }

  /** Say it: as Liveloop.feedback. */
  judge(signal) {
    return this.#records.judge(this.prediction, signal, { note: this.note });
  }

  connectedCallback() {
    for (const name of ["labels", "prediction", "liveloop"]) { // what was set before the element was defined
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    const url = this.getAttribute("url") ?? "";
    const clients = LiveloopThumbs.#clients;
    if (!this.#records && !clients.has(url)) clients.set(url, new Liveloop({ url }));
    this.liveloop = this.liveloop ?? clients.get(url);
  }

  disconnectedCallback() {
    this.#records.removeEventListener("change", this.#onChange);
  }

  attributeChangedCallback() {
    this.#renew();
  }

  /** Another answer, or other labels. */
  #renew() {
    if (!this.#records) return;
    const wrong = this.labels.filter((label) => label !== this.prediction?.label);
    this.#parts.pick.replaceChildren(new Option(words.pick, ""), ...wrong.map((label) => new Option(label, label)));
    this.#parts.pick.hidden = !wrong.length;
    if (this.prediction) this.#records.follow(this.prediction.prediction_id);
    this.#show();
  }

  #show() {
    const record = this.record;
    const { prompt, up, down, pick, undo, status } = this.#parts;
    if (record) this.removeAttribute("wanted");
    const state = record?.status.state ?? "";
    for (const side of [up, down]) {
      side.ariaPressed = String(record?.signal === side.dataset.say);
      side.disabled = !this.prediction?.feedback_token;
    }
    prompt.hidden = up.disabled || !this.hasAttribute("wanted");
    pick.value = record?.signal?.label ?? "";
    pick.toggleAttribute("data-chosen", Boolean(pick.value));
    pick.disabled = up.disabled;
    undo.hidden = record?.signal === undefined || record.signal === null;
    status.textContent = state ? (sentences[state]?.(record.status) ?? `It is ${state}.`) : "";
    if (this.getAttribute("state") === state) return;
    this.setAttribute("state", state);
    if (state) this.dispatchEvent(new CustomEvent("liveloop-state", { bubbles: true, composed: true, detail: record }));
  }
}

customElements.define("liveloop-thumbs", LiveloopThumbs);
