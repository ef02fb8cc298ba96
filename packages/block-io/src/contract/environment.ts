/**
 * Time and chance. No device or target reads a clock, sets a timer, defers work or draws a random number by
 * itself: all of it comes through an {@link Environment}, so that the simulation can replay a run exactly.
 */

/** A timer that was set and can be taken back. */
export interface Timer {
  /** Takes the timer back; harmless when it has fired. */
  cancel(): void;
}

/** Time, in milliseconds. */
export interface Clock {
  /** Milliseconds from an arbitrary start, never going back; fractions carry microseconds. */
  now(): number;
  /** Milliseconds since 1970-01-01 UTC; for display and records only. */
  wallTime(): number;
  /**
   * Calls `callback` once after at least `milliseconds`. A pending timer keeps the process alive, as a request
   * that waits for it must; whoever sets one for housekeeping cancels it when it is closed.
   */
  after(milliseconds: number, callback: () => void): Timer;
}

/** The event loop. */
export interface Scheduler {
  /** Runs `callback` in a later turn of the event loop, after I/O that is ready. */
  defer(callback: () => void): void;
}

/** Where random numbers come from. */
export interface Random {
  /** A float in [0, 1). */
  next(): number;
}

/** How much an event matters, from least to most. */
export type LogLevel = "debug" | "info" | "warn" | "error";

/** Where devices report what nobody waits for: one event a line, with fields. */
export interface Logger {
  log(level: LogLevel, message: string, fields?: Readonly<Record<string, unknown>>): void;
}

/** Everything a device may know of the world outside the devices below it. */
export interface Environment {
  readonly clock: Clock;
  readonly scheduler: Scheduler;
  readonly random: Random;
  readonly logger: Logger;
}

/** Resolves after `milliseconds` of the given clock; at once for 0, and as soon as one of the signals aborts. */
export function sleep(
  clock: Clock,
  milliseconds: number,
  ...signals: readonly (AbortSignal | undefined)[]
): Promise<void> {
  if (milliseconds === 0 || signals.some((signal) => signal?.aborted)) return Promise.resolve();
  return new Promise((resolve) => {
    const over = (): void => {
      timer.cancel();
      for (const signal of signals) signal?.removeEventListener("abort", over);
      resolve();
    };
    const timer = clock.after(milliseconds, over);
    for (const signal of signals) signal?.addEventListener("abort", over);
  });
}

/** Calls `work` every so many milliseconds until it is cancelled. */
export function every(clock: Clock, milliseconds: number, work: () => void): Timer {
  let cancelled = false;
  const plan = (): Timer =>
    clock.after(milliseconds, () => {
      work();
      if (!cancelled) timer = plan();
    });
  let timer = plan();
  return {
    cancel: () => {
      cancelled = true;
      timer.cancel();
    },
  };
}

/** Resolves in another turn of the event loop: work that takes long lets others have theirs. */
export function nextTurn(scheduler: Scheduler): Promise<void> {
  return new Promise((resolve) => scheduler.defer(resolve));
}

/** A logger that says nothing. */
export const silentLogger: Logger = { log() {} };

/** The real clock, event loop and random numbers, and no log. */
export const realEnvironment: Environment = {
  clock: {
    now: () => performance.now(),
    wallTime: () => Date.now(),
    after(milliseconds, callback) {
      const timer = setTimeout(callback, milliseconds);
      return { cancel: () => clearTimeout(timer) };
    },
  },
  scheduler: {
    defer(callback) {
      setImmediate(callback);
    },
  },
  random: { next: () => Math.random() },
  logger: silentLogger,
};
