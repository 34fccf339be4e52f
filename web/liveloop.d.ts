export interface Prediction {
  prediction_id: string;
  version: number;
  label: string;
  scores: { label: string; score: number }[];
  propensity: number;
  truncated: boolean;
  feedback_token: string;
  feedback_wanted: boolean;
}

/** What is needed of an answer to judge it. */
export type Judged = Pick<Prediction, "prediction_id" | "feedback_token"> & Partial<Prediction>;

/** A thumb, a rating from 0 to 1, what the answer should have been, or null to take back what was said. */
export type Signal = "up" | "down" | number | { label: string } | null;

export type State =
  | "sending" | "queued" | "unread" | "away"
  | "pending" | "joined" | "trained" | "served" | "held_out"
  | "superseded" | "retracted" | "quarantined" | "expired" | "rejected";

export interface Status {
  state: State;
  step?: number;
  version?: number;
  served_at?: string;
  accepted_at?: string;
  reason?: string;
  feedback_id?: string;
  retryAfter?: number;
}

export interface Ack {
  feedback_id: string;
  status: "accepted" | "duplicate" | "queued";
}

export interface Model {
  model: string;
  labels: string[];
  version: number;
  blessed_version: number;
  max_inputs: number;
  max_text_bytes: number;
}

export interface Version {
  version: number;
  parent: number;
  kind: "init" | "train" | "settle" | "consolidate" | "reset" | "rebase";
  step: number;
  feedback: number;
  patch_bytes: number;
  created_at?: string;
  blessed: boolean;
  current: boolean;
  accuracy?: number;
  pods: number;
  held: boolean;
  state: "held" | "published" | "canary" | "blessed" | "rolled_back" | "replaced";
  pinned: boolean;
  scores: { split: string; accuracy: number; rows: number }[];
}

export interface PredictOptions {
  user?: string;
  sessionId?: string;
  tags?: Record<string, string>;
  store?: boolean;
  notShown?: boolean;
}

export interface FeedbackOptions {
  reasons?: string[];
  comment?: string;
  feedbackId?: string;
}

export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly retryAfter: number;
  readonly temporary: boolean;
}

export function uuid(): string;
export const prefix: (kind: string, gateway: { url: string }) => string;

export class Shelf<T extends object = Record<string, unknown>> {
  readonly prefix: string;
  constructor(prefix: string, limit: number, hours: number);
  all(): [string, T & { at: number }][];
  get(id: string): (T & { at: number }) | undefined;
  set(id: string, value: T): T & { at: number };
  delete(id: string): false;
}

export class Liveloop {
  readonly url: string;
  readonly sessionId: string;
  constructor(options?: { url?: string; sessionId?: string; headers?: Record<string, string>; windowHours?: number });
  predict(text: string, options?: PredictOptions): Promise<Prediction>;
  predict(texts: string[], options?: PredictOptions): Promise<Prediction[]>;
  feedback(prediction: Judged, signal: Signal, options?: FeedbackOptions): Promise<Ack>;
  status(predictionId: string, feedbackId: string): Promise<Status>;
  follow(
    predictionId: string,
    feedbackId: string,
    options?: { signal?: AbortSignal; onState?: (status: Status) => void },
  ): Promise<Status | null>;
  model(): Promise<Model>;
  versions(limit?: number): Promise<Version[]>;
}
