/**
 * An `ObjectStore` over attempts that can fail, hang, or be carried out without an answer.
 *
 * Invariants:
 * - `create` is answered `true` only if the store said "created" to an attempt of this call, or said "exists" after an
 *   attempt whose outcome was unclear, and the object read back equals the body byte for byte.
 * - `create` is answered `false` only after the store said "exists" and either every attempt before it is known to
 *   have done nothing, or the object read back is another one. An object that exists is never replaced, so what
 *   was read back stays.
 * - A call that rejects after an unclear attempt leaves open whether, and when, its object appears.
 */
import { setMaxListeners } from "node:events";
import {
  BlockIoError,
  type Environment,
  type WatchedFacts,
  type WatchedName,
  type SettingsTable,
  realEnvironment,
  refuse,
  sleep,
  storeRequests,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { checkKey, checkPrefix } from "./key.ts";
import type { GetOptions, ObjectEntry, ObjectRange, ObjectStore, StoreOptions } from "./store.ts";
import type { Attempt, Failure, ObjectTransport } from "./transport.ts";
import { RequestWindow } from "./window.ts";

/** How long and how often a request is tried. Times are milliseconds, up to an hour. */
export interface RetryPolicy {
  /** Attempts at the most, 1 … 1000. */
  readonly attempts: number;
  /** Before attempt n + 1: a random time up to `delay` · 2^n, full jitter. Not above the longest. */
  readonly delay: number;
  /** The longest delay. */
  readonly longestDelay: number;
  /** For one attempt that moves up to 64 KiB; 1 or more. */
  readonly smallTimeout: number;
  /** For one attempt that moves more; 1 or more. */
  readonly largeTimeout: number;
}

/** 5 s for a small attempt, 30 s for a large one, 6 attempts within half a minute of waiting. */
export const defaultRetryPolicy: RetryPolicy = {
  attempts: 6,
  delay: 100,
  longestDelay: 10_000,
  smallTimeout: 5000,
  largeTimeout: 30_000,
};

const milliseconds = setting.integer(0, 3_600_000);

const policySettings: SettingsTable<RetryPolicy> = {
  attempts: setting.integer(1, 1000),
  delay: milliseconds,
  longestDelay: milliseconds,
  smallTimeout: setting.integer(1, 3_600_000),
  largeTimeout: setting.integer(1, 3_600_000),
};

/** How often, and how long, a store is asked again. */
export interface RetryingStoreOptions {
  readonly environment?: Environment | undefined;
  readonly policy?: Partial<RetryPolicy> | undefined;
  /** Requests under way at the most, 1 … 4096. 64 unless given; it begins with a quarter. */
  readonly requests?: number | undefined;
}

export const storeSettings: SettingsTable<RetryingStoreOptions> = {
  environment: setting.environment,
  policy: setting.within(policySettings),
  requests: setting.integer(1, 4096),
};

const getSettings: SettingsTable<GetOptions> = {
  range: setting.object,
  most: setting.integer(0, Number.MAX_SAFE_INTEGER),
  signal: setting.signal,
  memory: setting.object,
};
const requestSettings: SettingsTable<StoreOptions> = { signal: setting.signal };

/** The facts that are counted. */
const counted = [
  ...storeRequests.flatMap(
    (kind) => [`store_${kind}s`, `store_${kind}_retries`, `store_${kind}_errors`] as const,
  ),
  "store_read_bytes",
  "store_written_bytes",
] as const satisfies readonly WatchedName[];
type CountedFact = (typeof counted)[number];

const SMALL = 64 * 1024;
const MOST = 64 * 2 ** 20;

function policyOf(given: Partial<RetryPolicy>): RetryPolicy {
  const explicit = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const policy = { ...defaultRetryPolicy, ...explicit };
  const { delay, longestDelay } = policy;
  if (delay <= longestDelay) return policy;
  const hint = `Give a delay of ${longestDelay} or less, or a longestDelay of ${delay} or more.`;
  throw refuse(
    undefined,
    "EINVAL",
    `policy.delay is ${delay}, above policy.longestDelay ${longestDelay}`,
    hint,
  );
}

/** A store over one that fails now and then: requests are repeated where that is safe. */
export class RetryingStore implements ObjectStore {
  readonly name: string;
  // Bytes are those of bodies; of what is sent, also in attempts that failed.
  readonly #counted: Record<CountedFact, number>;
  readonly #transport: ObjectTransport;
  readonly #environment: Environment;
  readonly #policy: RetryPolicy;
  readonly #window: RequestWindow;
  readonly #closing = new AbortController();

  /** Throws `EINVAL` for options that are not in their range. */
  constructor(transport: ObjectTransport, options: RetryingStoreOptions = {}) {
    const { policy = {}, requests: most = 64 } = checkSettings(storeSettings, options);
    this.name = transport.name;
    this.#counted = Object.fromEntries(counted.map((name) => [name, 0])) as Record<CountedFact, number>;
    this.#transport = transport;
    // One listener for each request under way: no leak, whatever the default limit of 10 makes of it.
    setMaxListeners(0, this.#closing.signal);
    this.#environment = options.environment ?? realEnvironment;
    this.#policy = policyOf(policy);
    this.#window = new RequestWindow({ first: Math.max(1, Math.ceil(most / 4)), most });
  }

  async get(key: string, options: GetOptions = {}): Promise<Buffer> {
    const { range, most = MOST, signal, memory } = checkSettings(getSettings, options, "read");
    checkKey(key);
    checkAmount(range, most);
    const large = range === undefined || range.length > SMALL;
    const body = await this.#repeat("get", signal, large, (attempt) =>
      this.#transport.get(key, range, most, attempt, memory),
    );
    this.#counted.store_read_bytes += body.length;
    return body;
  }

  async head(key: string, options: StoreOptions = {}): Promise<ObjectEntry | undefined> {
    const { signal } = checkSettings(requestSettings, options, "read");
    checkKey(key);
    return await this.#repeat("head", signal, false, (attempt) => this.#transport.head(key, attempt));
  }

  async create(key: string, body: Uint8Array, options: StoreOptions = {}): Promise<boolean> {
    const { signal } = checkSettings(requestSettings, options, "write");
    checkKey(key);
    let unclear = false;
    const created = await this.#repeat(
      "put",
      signal,
      body.length > SMALL,
      (attempt) => {
        this.#counted.store_written_bytes += body.length;
        return this.#transport.create(key, body, attempt);
      },
      (failure) => {
        if (failure.outcome === "unclear") unclear = true;
      },
    );
    if (created === "created") return true;
    // Everything before is known to have done nothing: it is somebody else's.
    if (!unclear) return false;
    const there = await this.get(key, { most: Math.max(MOST, body.length), signal });
    return there.equals(body);
  }

  async put(key: string, body: Uint8Array, options: StoreOptions = {}): Promise<void> {
    const { signal } = checkSettings(requestSettings, options, "write");
    checkKey(key);
    await this.#repeat("put", signal, body.length > SMALL, (attempt) => {
      this.#counted.store_written_bytes += body.length;
      return this.#transport.put(key, body, attempt);
    });
  }

  async *list(prefix: string, after = "", options: StoreOptions = {}): AsyncGenerator<ObjectEntry> {
    const { signal } = checkSettings(requestSettings, options, "read");
    checkPrefix(prefix);
    let last = after;
    for (;;) {
      const from = last;
      // Pages come one after the other by nature: each begins where the last one ended.
      const page = await this.#repeat("list", signal, true, (attempt) =>
        this.#transport.list(prefix, from, attempt),
      );
      for (const entry of page.entries) {
        if (!entry.key.startsWith(prefix) || Buffer.compare(Buffer.from(entry.key), Buffer.from(last)) <= 0) {
          throw this.#error(
            `lists ${JSON.stringify(entry.key.slice(0, 80))} where keys behind ${JSON.stringify(last)} were asked for`,
            "EPROTO",
            "The store is not S3-compatible in its listings: use another one.",
          );
        }
        last = entry.key;
        yield entry;
      }
      if (!page.more) return;
      if (page.entries.length === 0) {
        throw this.#error("says that a listing goes on, and lists nothing", "EPROTO", "Use another store.");
      }
    }
  }

  async remove(key: string, options: StoreOptions = {}): Promise<void> {
    const { signal } = checkSettings(requestSettings, options, "write");
    checkKey(key);
    await this.#repeat("remove", signal, false, (attempt) => this.#transport.remove(key, attempt));
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    await this.#transport.close();
  }

  facts(): WatchedFacts {
    return { ...this.#counted };
  }

  async #repeat<T>(
    kind: (typeof storeRequests)[number],
    signal: AbortSignal | undefined,
    large: boolean,
    attempt: (signal: AbortSignal) => Promise<Attempt<T>>,
    onFailure: (failure: Failure) => void = () => {},
  ): Promise<T> {
    const { attempts, delay, longestDelay } = this.#policy;
    if (signal !== undefined) setMaxListeners(0, signal);
    for (let made = 1; ; made += 1) {
      // Attempts follow each other: that is what trying again means.
      this.#counted[`store_${kind}s`] += 1;
      const result = await this.#attempt(signal, large, attempt);
      if (result.done) return result.value;
      onFailure(result.failure);
      this.#refuseAborted(signal);
      // An object that is not there is an answer as good as any other, and what was cancelled is no failure.
      if (result.failure.error.code !== "ENOENT") this.#counted[`store_${kind}_errors`] += 1;
      if (result.failure.again === "no" || made >= attempts) throw result.failure.error;
      this.#counted[`store_${kind}_retries`] += 1;
      const longest = Math.min(longestDelay, delay * 2 ** (made - 1));
      const pause = this.#environment.random.next() * longest;
      await sleep(this.#environment.clock, pause, signal, this.#closing.signal);
      this.#refuseAborted(signal);
    }
  }

  async #attempt<T>(
    signal: AbortSignal | undefined,
    large: boolean,
    attempt: (signal: AbortSignal) => Promise<Attempt<T>>,
  ): Promise<Attempt<T>> {
    await this.#window.enter();
    let outcome: "success" | "failure" | "slower" = "failure";
    const controller = new AbortController();
    const abort = (): void => controller.abort();
    const timeout = large ? this.#policy.largeTimeout : this.#policy.smallTimeout;
    const timer = this.#environment.clock.after(timeout, abort);
    signal?.addEventListener("abort", abort);
    this.#closing.signal.addEventListener("abort", abort);
    try {
      this.#refuseAborted(signal);
      const result = await attempt(controller.signal);
      if (result.done) outcome = "success";
      else if (result.failure.again === "slower") outcome = "slower";
      // An object that is not there is an answer as good as any other.
      else if (result.failure.again === "no") outcome = "success";
      return result;
    } finally {
      timer.cancel();
      signal?.removeEventListener("abort", abort);
      this.#closing.signal.removeEventListener("abort", abort);
      this.#window.leave(outcome);
    }
  }

  #refuseAborted(signal: AbortSignal | undefined): void {
    if (this.#closing.signal.aborted) throw this.#error("the store was closed", "ESHUTDOWN");
    if (signal?.aborted === true) throw this.#error("the request was cancelled", "ESHUTDOWN");
  }

  #error(reason: string, code: "ESHUTDOWN" | "EPROTO", hint?: string): BlockIoError {
    return new BlockIoError(reason, { code, device: this.name, hint });
  }
}

/** Throws `EINVAL` for what no object can be asked for. */
function checkAmount(range: ObjectRange | undefined, most: number): void {
  const isWhole = (value: number, least: number): boolean => Number.isSafeInteger(value) && value >= least;
  if (isWhole(most, 0) && (range === undefined || (isWhole(range.offset, 0) && isWhole(range.length, 1))))
    return;
  const asked = range === undefined ? "" : `${range.length} bytes from byte ${range.offset}, `;
  const hint = "Give whole numbers: an offset of 0 or more, a length of 1 or more, most of 0 or more.";
  throw refuse(undefined, "EINVAL", `${asked}at most ${most} bytes cannot be asked for`, hint, "read");
}
