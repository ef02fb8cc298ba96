/**
 * Time that moves when a test says so, for tests that look at one moment. (In a simulation time is virtual, and its
 * scheduler moves it.)
 */
import { type Clock, type Environment, type Timer, silentLogger } from "../contract/environment.ts";
import { SeededRandom } from "./random.ts";

interface Due {
  readonly at: number;
  readonly callback: () => void;
}

/** Starts at 0. Timers fire in the order of their times; of one time, in the order they were set. */
export class ManualClock implements Clock {
  #now = 0;
  readonly #timers: Set<Due> = new Set();

  now(): number {
    return this.#now;
  }

  wallTime(): number {
    return this.#now;
  }

  after(milliseconds: number, callback: () => void): Timer {
    const timer = { at: this.#now + milliseconds, callback };
    this.#timers.add(timer);
    return { cancel: () => void this.#timers.delete(timer) };
  }

  /** Timers that have not fired. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Lets time pass at once; also fires the timers that others set on the way. */
  advance(milliseconds: number): void {
    const end = this.#now + milliseconds;
    while (this.#fireNext(end));
    this.#now = end;
  }

  /** Lets time pass, and whatever a timer sets off come to rest before the next one. */
  async pass(milliseconds: number): Promise<void> {
    const end = this.#now + milliseconds;
    while (this.#fireNext(end)) await settle();
    this.#now = end;
    await settle();
  }

  /**
   * Lets time pass from timer to timer, until `over` says so, `end` (in milliseconds) is reached or no timer is left.
   * @param turns of the event loop before each: one where nothing waits for more than promises.
   */
  async passUntil(over: () => boolean, end: number = Number.POSITIVE_INFINITY, turns = 1): Promise<void> {
    do {
      for (let turn = 0; turn < turns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    } while (!over() && this.#fireNext(end));
  }

  #fireNext(end: number): boolean {
    let next: Due | undefined;
    for (const timer of this.#timers) if (timer.at < (next?.at ?? Number.POSITIVE_INFINITY)) next = timer;
    if (next === undefined || next.at > end) return false;
    this.#timers.delete(next);
    this.#now = Math.max(this.#now, next.at);
    next.callback();
    return true;
  }
}

/** Until nothing moves any more that does not wait for a disk or the clock. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** An environment that is the same each time: random numbers from a seed, a clock that stands still, and no log. */
export function manualEnvironment(seed = 1, clock: Clock = new ManualClock()): Environment {
  return {
    clock,
    scheduler: { defer: (callback) => void setImmediate(callback) },
    random: new SeededRandom(seed),
    logger: silentLogger,
  };
}
