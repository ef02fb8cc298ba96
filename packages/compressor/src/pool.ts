/**
 * A pool of equal items, each used by one holder at a time.
 *
 * Invariants:
 * - an item is idle or held, never both, and held by one holder: `total = idle.length + held.size`;
 * - until the pool is closed there is at least one item, so whoever waits will be served once someone releases;
 * - nobody waits while an item is idle, and waiters are served in the order they came: a newcomer never
 *   overtakes one (`tryAcquire` included);
 * - creating an item never waits. If it fails while there are others, the caller waits for one of those.
 *
 * Trimming: every `idleTime` the items that have been idle all through the last period are destroyed, down to
 * one. They are known without a time stamp each: the smallest number of idle items seen in the period, taken
 * from the bottom of the idle stack, where the longest unused ones lie. So an idle item goes after one to two
 * periods.
 */
import type { Clock, Timer } from "./clock.ts";
import { CompressorError } from "./errors.ts";

export interface PoolOptions<Item> {
  /** Must neither wait nor do I/O; may throw. */
  create(): Item;
  /** Must not throw. */
  destroy(item: Item): void;
  /** The most items at a time, at least 1. */
  readonly max: number;
  /** Milliseconds; 0 keeps items for good. */
  readonly idleTime: number;
  readonly clock: Clock;
}

/** What there is in a pool at the moment. */
export interface PoolStatus {
  readonly total: number;
  readonly idle: number;
  readonly waiting: number;
  /** How often creating an item failed since the pool was made. */
  readonly failures: number;
}

interface Waiter<Item> {
  resolve(item: Item): void;
  reject(error: unknown): void;
}

export class Pool<Item> {
  readonly #options: PoolOptions<Item>;
  #max: number;
  /** A stack: the top was used last, and its memory is the likeliest to be in the processor's cache. */
  readonly #idle: Item[] = [];
  readonly #held: Set<Item> = new Set();
  readonly #waiting: Waiter<Item>[] = [];
  #failures = 0;
  /** The smallest number of idle items since the last trimming. */
  #lowWater = 0;
  #timer: Timer | undefined;
  #closing: Promise<void> | undefined;
  #closed: () => void = () => undefined;

  /** Creates the first item; throws what `create` throws. */
  constructor(options: PoolOptions<Item>) {
    this.#options = options;
    this.#max = options.max;
    this.#idle.push(options.create());
  }

  status(): PoolStatus {
    const idle = this.#idle.length;
    return { total: this.#total, idle, waiting: this.#waiting.length, failures: this.#failures };
  }

  get max(): number {
    return this.#max;
  }

  /** Takes an item if that is possible at once; never overtakes anybody who waits. */
  tryAcquire(): Item | undefined {
    if (this.#closing !== undefined) throw closedError();
    if (this.#waiting.length > 0) return undefined;
    const item = this.#idle.pop() ?? this.#createAnother();
    if (item === undefined) return undefined;
    if (this.#idle.length < this.#lowWater) this.#lowWater = this.#idle.length;
    this.#held.add(item);
    return item;
  }

  /** Takes an item, waiting in line for it if need be. Rejects with `ESHUTDOWN` when the pool is closed. */
  acquire(): Promise<Item> {
    return new Promise((resolve, reject) => {
      const item = this.tryAcquire();
      if (item !== undefined) {
        resolve(item);
        return;
      }
      this.#waiting.push({ resolve, reject });
      this.#createForWaiting();
    });
  }

  /** Gives an item back. Throws `EINVAL` if it is not held: that would be two users of one item. */
  release(item: Item): void {
    if (!this.#held.delete(item)) {
      throw new CompressorError("an item was released that nobody holds", { code: "EINVAL" });
    }
    if (this.#closing !== undefined || this.#total >= this.#max) {
      this.#options.destroy(item);
      if (this.#closing !== undefined && this.#held.size === 0) this.#closed();
      return;
    }
    if (this.#waiting.length > 0) {
      this.#serve(item);
    } else {
      this.#idle.push(item);
      this.#armTimer();
    }
  }

  /** Does something with an item, waiting in line for it if need be. Errors: those of the work; `ESHUTDOWN`. */
  async with<Result>(work: (item: Item) => Promise<Result>): Promise<Result> {
    const item = await this.acquire();
    try {
      return await work(item);
    } finally {
      this.release(item);
    }
  }

  /** Changes how many items there may be. Surplus items go at once if idle, else when released. */
  resize(max: number): void {
    this.#max = max;
    while (this.#total > max && this.#idle.length > 0) this.#destroyOldest();
    this.#createForWaiting();
  }

  /** Refuses everybody who waits, destroys what is idle, and resolves when all that was held is released. */
  close(): Promise<void> {
    if (this.#closing !== undefined) return this.#closing;
    this.#closing = new Promise((resolve) => {
      this.#closed = resolve;
    });
    this.#timer?.cancel();
    for (const waiter of this.#waiting.splice(0)) waiter.reject(closedError());
    while (this.#idle.length > 0) this.#destroyOldest();
    if (this.#held.size === 0) this.#closed();
    return this.#closing;
  }

  get #total(): number {
    return this.#idle.length + this.#held.size;
  }

  #createAnother(): Item | undefined {
    if (this.#total >= this.#max) return undefined;
    try {
      return this.#options.create();
    } catch {
      // There is another item (see the invariants), and it will be released: wait for that one.
      this.#failures += 1;
      return undefined;
    }
  }

  /** Hands an item to whoever waits longest. */
  #serve(item: Item): void {
    this.#held.add(item);
    this.#waiting.shift()?.resolve(item);
  }

  /** Creation may have failed before and work now, or the limit may have grown. */
  #createForWaiting(): void {
    while (this.#waiting.length > 0) {
      const item = this.#createAnother();
      if (item === undefined) return;
      this.#serve(item);
    }
  }

  #destroyOldest(): void {
    const item = this.#idle.shift();
    if (item !== undefined) this.#options.destroy(item);
  }

  #armTimer(): void {
    const { idleTime, clock } = this.#options;
    if (idleTime === 0 || this.#timer !== undefined || this.#total <= 1) return;
    this.#lowWater = this.#idle.length;
    this.#timer = clock.after(idleTime, () => {
      this.#timer = undefined;
      const surplus = Math.min(this.#lowWater, this.#total - 1);
      for (let i = 0; i < surplus; i += 1) this.#destroyOldest();
      if (this.#idle.length > 0) this.#armTimer();
    });
  }
}

function closedError(): CompressorError {
  return new CompressorError("the compressor is closed", { code: "ESHUTDOWN" });
}
