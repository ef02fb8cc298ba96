/**
 * What a device finds out about itself by being used: what failed, when it was flushed, that nothing it was asked is
 * answered, and that it had no space for something. Nothing here decides about a request, and a look at the health is not part of what a simulation
 * replays: so the real clock is read, which spares every device a parameter.
 */
import { type Clock, realEnvironment } from "./environment.ts";
import { type BlockIoError, isOutOfSpace } from "./errors.ts";
import type { WatchedFacts } from "./facts.ts";
import { type Health, healthy, wholeStory } from "./health.ts";

/** Milliseconds without any answer after which a device counts as silent: more than a disk's own error recovery takes. */
const SILENCE = 30_000;
/** Milliseconds for which a device counts as full after it had no space for something. */
const NO_SPACE_TELLS = 60_000;

export class Vitals {
  readonly #clock: Clock;
  /** Set by the first look that found this many requests settled and others waiting. Times are of the monotonic clock. */
  #quiet: { readonly settled: number; readonly at: number } | undefined;
  #full: { readonly error: BlockIoError; readonly at: number } | undefined;
  /** Requests that failed. */
  #errors = 0;
  /** When a flush last succeeded; milliseconds since 1970. */
  #flushed: number | undefined;

  constructor(clock: Clock = realEnvironment.clock) {
    this.#clock = clock;
  }

  /**
   * Degraded where two looks, half a minute or more apart, find requests waiting and none settled between them.
   * @param settled how many have settled since the device was opened, modulo anything large.
   */
  silence(name: string, waiting: number, settled: number): Health {
    const now = this.#clock.now();
    if (waiting === 0) this.#quiet = undefined;
    else if (this.#quiet?.settled !== settled) this.#quiet = { settled, at: now };
    const silent = this.#quiet === undefined ? 0 : now - this.#quiet.at;
    if (silent < SILENCE) return healthy;
    return {
      state: "degraded",
      since: this.#clock.wallTime() - silent,
      why: `${name}: ${waiting} requests wait, and none was answered for ${Math.floor(silent / 1000)} s`,
      help: "Check whether the storage below it answers; what waits is carried out when it does.",
    };
  }

  /** A flush has succeeded. */
  flushed(): void {
    this.#flushed = this.#clock.wallTime();
  }

  /** @param inFlight requests at work. */
  facts(inFlight: number): WatchedFacts {
    const flushed = this.#flushed === undefined ? {} : { last_flush: this.#flushed / 1000 };
    return { in_flight: inFlight, errors: this.#errors, ...flushed };
  }

  /** Counts a request that failed, and remembers one that did for want of space; returns the error. */
  noted(error: BlockIoError): BlockIoError {
    this.#errors += 1;
    if (isOutOfSpace(error)) this.#full = { error, at: this.#clock.now() };
    return error;
  }

  /** Degraded for a minute after there was no space for something. */
  space(): Health {
    if (this.#full === undefined) return healthy;
    const { error, at } = this.#full;
    const ago = this.#clock.now() - at;
    if (ago > NO_SPACE_TELLS) return healthy;
    return {
      state: "degraded",
      since: this.#clock.wallTime() - ago,
      why: wholeStory(error),
      help: error.hint ?? "Make room where it is stored; what was refused can be written again then.",
    };
  }
}
