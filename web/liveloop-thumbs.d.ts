import type { Judged, Liveloop, Signal, State, Status } from "./liveloop.js";
import type { Record } from "./liveloop-records.js";

export const sentences: { [state in State]: (status: Status) => string };
export const words: { group: string; ask: string; up: string; down: string; pick: string; undo: string };

export class LiveloopThumbs extends HTMLElement {
  get prediction(): Judged | null;
  set prediction(prediction: Judged | null);
  labels: string[];
  get liveloop(): Liveloop | undefined;
  set liveloop(liveloop: Liveloop);
  note?: unknown;
  readonly record: Record | undefined;
  judge(signal: Signal): Promise<void>;
}

declare global {
  interface HTMLElementTagNameMap {
    "liveloop-thumbs": LiveloopThumbs;
  }
  interface HTMLElementEventMap {
    "liveloop-state": CustomEvent<Record>;
  }
}
