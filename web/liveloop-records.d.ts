import type { FeedbackOptions, Judged, Liveloop, Signal, Status } from "./liveloop.js";

export interface Record<Note = unknown> {
  at: number;
  prediction: Judged;
  signal: Signal;
  feedback_id: string;
  status: Status;
  note?: Note;
}

export class Records extends EventTarget {
  static of(liveloop: Liveloop): Records;
  readonly liveloop: Liveloop;
  constructor(liveloop: Liveloop);
  all(): Record[];
  get(predictionId: string): Record | undefined;
  judge(prediction: Judged, signal: Signal, options?: FeedbackOptions & { note?: unknown }): Promise<void>;
  follow(predictionId: string): Promise<void>;
  annotate(predictionId: string, note: unknown): void;
  clear(): void;
}
