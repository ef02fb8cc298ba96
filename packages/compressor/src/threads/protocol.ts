/**
 * What the main thread and a worker thread say to each other. Bytes travel through two shared buffers that
 * belong to the thread, one in each direction; messages carry only numbers. One job at a time per thread, so
 * while a job runs the buffers are the worker's, and otherwise the main thread's.
 */
import type { ContextSettings, WorkerEntry } from "../backend.ts";
import type { CompressorErrorCode } from "../errors.ts";

/** Handed to a worker when it starts. */
export interface ThreadSetup {
  readonly entry: WorkerEntry;
  readonly settings: ContextSettings;
  readonly input: SharedArrayBuffer;
  readonly output: SharedArrayBuffer;
}

export type JobKind = "compress" | "decompress";

/** To the worker: `length` bytes lie in `input`; put at most `limit` bytes into `output`. */
export interface Job {
  readonly kind: JobKind;
  readonly length: number;
  readonly limit: number;
}

/** From the worker, once, when it can take jobs. */
export const READY = "ready";

/** From the worker, after each job: a length as the backend returned it, or how the backend failed. */
export type Answer = number | Failure;

export interface Failure {
  readonly code: CompressorErrorCode;
  readonly reason: string;
}
