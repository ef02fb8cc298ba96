/**
 * Worker threads for a backend whose library has none: started before the first job, so that no compression ever
 * waits for code to be read from a disk that may be the very one being served. When their number is changed, new ones
 * get jobs once they are ready, and surplus ones end when they have none.
 *
 * Invariants:
 * - a thread has at most one job; its shared buffers are touched by the main thread only while it has none;
 * - jobs are started in the order they came;
 * - a thread that dies takes no job with it: the job is answered with `undefined`, "not done", and the caller
 *   does it itself. When the last thread is gone every job is answered so.
 */
import { Worker } from "node:worker_threads";
import type { ContextSettings, WorkerEntry } from "../backend.ts";
import { CompressorError } from "../errors.ts";
import { type Answer, type Job, type JobKind, READY, type ThreadSetup } from "./protocol.ts";

export interface TeamOptions {
  readonly backend: string;
  readonly entry: WorkerEntry;
  readonly settings: ContextSettings;
  /** Number of threads, at least 1. */
  readonly threads: number;
  /** The longest input and the longest output of a job, in bytes. */
  readonly capacity: number;
}

interface Task {
  readonly job: Job;
  readonly src: Uint8Array;
  readonly dst: Uint8Array;
  resolve(length: number | undefined): void;
  reject(error: unknown): void;
}

/** Whether the module can be imported by a worker: TypeScript sources only where Node itself reads them. */
export function canRunOnThreads(entry: WorkerEntry): boolean {
  const features = process.features as { readonly typescript?: unknown };
  const isSource = (url: string): boolean => url.endsWith(".ts");
  return Boolean(features.typescript) || !(isSource(entry.module) || isSource(import.meta.url));
}

export class ThreadTeam {
  readonly capacity: number;
  readonly #options: TeamOptions;
  readonly #threads: Set<Thread> = new Set();
  readonly #idle: Thread[] = [];
  readonly #queue: Task[] = [];

  /** How many threads there should be. */
  #wanted: number;
  readonly #starting: Set<Thread> = new Set();

  private constructor(options: TeamOptions) {
    this.#options = options;
    this.#wanted = options.threads;
    this.capacity = options.capacity;
  }

  /** Starts the threads; resolves when all are ready, or rejects (`ENOTSUP`) with none left running. */
  static async start(options: TeamOptions): Promise<ThreadTeam> {
    const team = new ThreadTeam(options);
    try {
      await team.#start(options.threads);
    } catch (error) {
      await team.close();
      throw error;
    }
    return team;
  }

  /**
   * Changes how many threads there are; at least 1. Resolves when those that were missing are ready. Rejects
   * (`ENOTSUP`) if one does not start: then there are those there were. A later change overrules an earlier one.
   */
  async resize(threads: number): Promise<void> {
    if (this.#wanted === 0) return;
    this.#wanted = threads;
    this.#dismiss();
    const missing = threads - this.#threads.size - this.#starting.size;
    if (missing > 0) await this.#start(missing);
  }

  /** Threads alive. */
  get size(): number {
    return this.#threads.size;
  }

  /**
   * Runs a job on a thread, waiting for one if need be. `src` and `dst` are at most `capacity` long and are the
   * team's until the promise settles.
   *
   * @returns what the backend returned; `undefined` if the job was not done because a thread died.
   */
  run(kind: JobKind, src: Uint8Array, dst: Uint8Array): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      const job = { kind, length: src.length, limit: dst.length };
      this.#queue.push({ job, src, dst, resolve, reject });
      this.#dispatch();
    });
  }

  async close(): Promise<void> {
    this.#wanted = 0;
    await Promise.all([...this.#threads, ...this.#starting].map((thread) => thread.stop()));
  }

  /** All of them are ready, or none goes on. */
  async #start(count: number): Promise<void> {
    const threads = Array.from({ length: count }, () => new Thread(this.#options));
    for (const thread of threads) this.#starting.add(thread);
    try {
      await Promise.all(threads.map((thread) => thread.ready));
    } catch (cause) {
      await Promise.all(threads.map((thread) => thread.stop()));
      // Closing stops those that are not ready yet.
      if (this.#wanted === 0) return;
      throw new CompressorError("a worker thread did not start", {
        code: "ENOTSUP",
        backend: this.#options.backend,
        cause,
        hint: "Pass threads: 0 to do without worker threads",
      });
    } finally {
      for (const thread of threads) this.#starting.delete(thread);
    }
    for (const thread of threads) this.#adopt(thread);
    this.#dismiss();
    this.#dispatch();
  }

  /** Ends threads that are too many, as far as they have no job. */
  #dismiss(): void {
    while (this.#threads.size > this.#wanted && this.#idle.length > 0) this.#end(this.#idle.pop() as Thread);
  }

  #end(thread: Thread): void {
    this.#threads.delete(thread);
    void thread.stop();
  }

  #adopt(thread: Thread): void {
    this.#threads.add(thread);
    this.#idle.push(thread);
    thread.onEnd = () => {
      this.#threads.delete(thread);
      const at = this.#idle.indexOf(thread);
      if (at >= 0) this.#idle.splice(at, 1);
      this.#dispatch();
    };
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      if (this.#threads.size === 0) {
        for (const task of this.#queue.splice(0)) task.resolve(undefined);
        return;
      }
      const thread = this.#idle.pop();
      if (thread === undefined) return;
      this.#begin(thread, this.#queue.shift() as Task);
    }
  }

  #begin(thread: Thread, { job, src, dst, ...task }: Task): void {
    thread.run(job, src, (answer) => {
      if (answer === undefined) {
        task.resolve(undefined);
        return;
      }
      if (typeof answer === "number") {
        thread.copyOutput(dst, answer);
        task.resolve(answer);
      } else {
        task.reject(
          new CompressorError(answer.reason, { code: answer.code, backend: this.#options.backend }),
        );
      }
      if (this.#threads.size > this.#wanted) this.#end(thread);
      else this.#idle.push(thread);
      this.#dispatch();
    });
  }
}

/** One worker and the two buffers it shares with us. */
class Thread {
  readonly ready: Promise<void>;
  /** Called once, when the worker has ended for whatever reason. */
  onEnd: () => void = () => undefined;
  readonly #worker: Worker;
  readonly #input: Buffer;
  readonly #output: Buffer;
  #answered: ((answer: Answer | undefined) => void) | undefined;

  constructor({ entry, settings, capacity }: TeamOptions) {
    const input = new SharedArrayBuffer(capacity);
    const output = new SharedArrayBuffer(capacity);
    this.#input = Buffer.from(input);
    this.#output = Buffer.from(output);
    const setup: ThreadSetup = { entry, settings, input, output };
    const isSource = import.meta.url.endsWith(".ts");
    const file = new URL(isSource ? "./worker.ts" : "./worker.js", import.meta.url);
    // Not the flags of the process: some (--input-type, --eval) would keep the worker from starting. Sources need those by
    // which they are loaded, and inherit all.
    this.#worker = new Worker(file, { workerData: setup, ...(isSource ? {} : { execArgv: [] }) });
    this.ready = new Promise((resolve, reject) => {
      // One listener for good: adding one later would keep the process alive.
      this.#worker.on("message", (message: typeof READY | Answer) => {
        // From here on the thread keeps the process alive only while it has a job.
        this.#worker.unref();
        if (message === READY) resolve();
        else this.#answer(message);
      });
      this.#worker.once("error", reject);
      this.#worker.once("exit", (code) => {
        reject(new Error(`the worker thread exited with code ${code}`));
        this.#answer(undefined);
        this.onEnd();
      });
    });
  }

  /** Starts a job; the thread has none. `answered` is called once, with `undefined` if the worker dies. */
  run(job: Job, src: Uint8Array, answered: (answer: Answer | undefined) => void): void {
    this.#input.set(src);
    this.#answered = answered;
    this.#worker.ref();
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
    this.#worker.postMessage(job);
  }

  copyOutput(dst: Uint8Array, length: number): void {
    if (length > 0) dst.set(this.#output.subarray(0, length));
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }

  #answer(answer: Answer | undefined): void {
    const answered = this.#answered;
    this.#answered = undefined;
    answered?.(answer);
  }
}
