/** The little of a clock that a pool needs; the `clock` of a dmkit `Environment` is one. */

/** What a timer is cancelled by. */
export interface Timer {
  /** Takes the timer back; harmless when it has fired. */
  cancel(): void;
}

/** Time, in milliseconds. */
export interface Clock {
  /** Calls `callback` once after at least `milliseconds`. */
  after(milliseconds: number, callback: () => void): Timer;
}

/** The real clock. Its timers do not keep the process alive. */
export const realClock: Clock = {
  after(milliseconds, callback) {
    const timer = setTimeout(callback, milliseconds);
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
};
