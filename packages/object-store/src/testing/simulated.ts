/**
 * A bucket in memory and clients of it whose requests can do what requests do: fail, be carried out without an
 * answer, be carried out long after their client has given up, or twice. Everything is decided by the random numbers
 * of the environment and timed by its clock, so the same seed gives the same run.
 */
import { BlockIoError, type Environment } from "@dmkit/block-io";
import type { ObjectEntry, ObjectRange } from "../store.ts";
import {
  type Attempt,
  type Created,
  type ListPage,
  type ObjectTransport,
  failed,
  succeeded,
} from "../transport.ts";

/** Chances are 0 … 1, times milliseconds. */
export interface SimulatedStoreOptions {
  readonly environment: Environment;
  /** Each request takes a random time up to this. */
  readonly latency?: number;
  /** An attempt is refused and does nothing. */
  readonly refused?: number;
  /** An attempt is carried out, and its answer is lost. */
  readonly lostAnswer?: number;
  /** An attempt gets no answer, and is carried out up to `late` later. */
  readonly landsLate?: number;
  readonly late?: number;
  /** Whether conditions are ignored, as some stores do. */
  readonly ignoresConditions?: boolean;
}

/** What a bucket holds; shared by the clients of one test. */
export class SimulatedBucket {
  readonly objects: Map<string, Buffer> = new Map();
  /** When each was written, by the wall clock of its writer's environment. */
  readonly modified: Map<string, number> = new Map();
  /** Nobody answers: no attempt is carried out. */
  isAway = false;
}

export class SimulatedTransport implements ObjectTransport {
  readonly name: string;
  readonly #bucket: SimulatedBucket;
  readonly #options: Required<SimulatedStoreOptions>;

  constructor(bucket: SimulatedBucket, options: SimulatedStoreOptions, name = "simulated") {
    this.name = name;
    this.#bucket = bucket;
    this.#options = {
      latency: 10,
      refused: 0,
      lostAnswer: 0,
      landsLate: 0,
      late: 1000,
      ignoresConditions: false,
      ...options,
    };
  }

  get(
    key: string,
    range: ObjectRange | undefined,
    most: number,
    signal: AbortSignal,
  ): Promise<Attempt<Buffer>> {
    return this.#attempt(signal, () => {
      const body = this.#bucket.objects.get(key);
      if (body === undefined) {
        return failed(this.#error(`there is no object ${key}`, "ENOENT"), "nothing", "no");
      }
      const part = range === undefined ? body : body.subarray(range.offset, range.offset + range.length);
      if (part.length > most) return failed(this.#error(`${key} is too large`, "EOVERFLOW"), "nothing", "no");
      return succeeded(Buffer.from(part));
    });
  }

  head(key: string, signal: AbortSignal): Promise<Attempt<ObjectEntry | undefined>> {
    return this.#attempt(signal, () => {
      const stored = this.#bucket.objects.get(key);
      return succeeded(
        stored === undefined ? undefined : { key, size: stored.length, modified: this.#modified(key) },
      );
    });
  }

  create(key: string, body: Uint8Array, signal: AbortSignal): Promise<Attempt<Created>> {
    const copy = Buffer.from(body);
    return this.#attempt(signal, () => {
      if (this.#bucket.objects.has(key) && !this.#options.ignoresConditions) return succeeded("exists");
      this.#set(key, copy);
      return succeeded("created");
    });
  }

  put(key: string, body: Uint8Array, signal: AbortSignal): Promise<Attempt<void>> {
    const copy = Buffer.from(body);
    return this.#attempt(signal, () => {
      this.#set(key, copy);
      return succeeded(undefined);
    });
  }

  list(prefix: string, after: string, signal: AbortSignal): Promise<Attempt<ListPage>> {
    return this.#attempt(signal, () => {
      const keys = [...this.#bucket.objects.keys()]
        .filter((key) => key.startsWith(prefix) && key > after)
        .toSorted();
      const entries = keys.slice(0, 1000).map((key) => ({
        key,
        size: this.#bucket.objects.get(key)?.length ?? 0,
        modified: this.#modified(key),
      }));
      return succeeded({ entries, more: keys.length > entries.length });
    });
  }

  remove(key: string, signal: AbortSignal): Promise<Attempt<void>> {
    return this.#attempt(signal, () => {
      this.#bucket.objects.delete(key);
      return succeeded(undefined);
    });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #set(key: string, body: Buffer): void {
    this.#bucket.objects.set(key, body);
    this.#bucket.modified.set(key, this.#options.environment.clock.wallTime());
  }

  #modified(key: string): number {
    return this.#bucket.modified.get(key) ?? 0;
  }

  #attempt<T>(signal: AbortSignal, act: () => Attempt<T>): Promise<Attempt<T>> {
    const { environment, latency, refused, lostAnswer, landsLate, late } = this.#options;
    const { clock, random } = environment;
    const fate = random.next();
    return new Promise((resolve) => {
      const give = (result: Attempt<T>): void => {
        signal.removeEventListener("abort", abort);
        resolve(result);
      };
      const abort = (): void =>
        give(failed(this.#error("no answer in the time allowed", "ETIMEDOUT"), "unclear", "yes"));
      signal.addEventListener("abort", abort);
      const lost = failed(this.#error("the connection was lost", "ENOTCONN"), "unclear", "yes");
      // An aborted request is carried out all the same when its time has come: it was sent.
      clock.after(random.next() * latency, () => {
        if (this.#bucket.isAway) give(failed(this.#error("nobody answers", "ENOTCONN"), "nothing", "yes"));
        else if (fate < refused) give(failed(this.#error("busy", "EBUSY"), "nothing", "slower"));
        else if (fate < refused + lostAnswer) {
          act();
          give(lost);
        } else if (fate < refused + lostAnswer + landsLate) {
          clock.after(random.next() * late, act);
          give(lost);
        } else give(act());
      });
    });
  }

  #error(reason: string, code: "ENOENT" | "EOVERFLOW" | "ETIMEDOUT" | "ENOTCONN" | "EBUSY"): BlockIoError {
    return new BlockIoError(reason, { code, device: this.name });
  }
}
