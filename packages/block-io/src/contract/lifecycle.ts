/**
 * Open, suspended, closed: what a guarded device goes through, whatever it is.
 *
 *      open ⇄ suspended
 *        \      /
 *        closed
 *
 * Invariants:
 *
 * - `inFlight` counts exactly the requests that were let in and have not settled; suspend and close wait for zero;
 * - suspend, resume and close take effect one after the other, in the order they were asked for, and the device's own
 *   `rest` and `wake` come in pairs;
 * - a suspend that failed holds requests until the next resume, and the next suspend flushes again;
 * - once close was asked for nothing is let in, and nothing runs any more when the device's `end` is called, once.
 */
import { done } from "./device.ts";
import { BlockIoError, type Operation } from "./errors.ts";
import { type Gate, makeGate } from "../sync/gate.ts";
import { Turnstile } from "../sync/turnstile.ts";

/** Requests, counted. */
export interface RequestCounts {
  /** Requests that were let in and have not settled. */
  readonly inFlight: number;
  /** Requests that have settled; wraps around. */
  readonly settledCount: number;
}

/** What the device itself has to do on the way. */
export interface LifecycleHooks {
  readonly name: string;
  /** Nothing new is let in from now on, and a flush follows. */
  willDrain(): void;
  /** Flushes what was acknowledged; nothing where that is not possible any more. */
  flush(): Promise<void>;
  rest(): Promise<void>;
  wake(): Promise<void>;
  end(): Promise<void>;
}

export class Lifecycle implements RequestCounts {
  state: "open" | "suspended" | "closed" = "open";
  inFlight = 0;
  settledCount = 0;
  readonly #hooks: LifecycleHooks;
  readonly #turns: Turnstile = new Turnstile();
  #idle: (() => void)[] = [];
  #closing: Promise<void> | undefined;
  /** Between the device's rest and wake. */
  #isResting = false;
  /** All that was answered is flushed, and nothing has been let in since. Not so where a suspend has failed. */
  #isQuiet = false;
  /** Exists while suspended. */
  #gate: Gate | undefined;

  constructor(hooks: LifecycleHooks) {
    this.#hooks = hooks;
  }

  /** A request has settled. Bound once: the hot path hands it to `then` without making a closure. */
  readonly settled = (): void => {
    this.inFlight -= 1;
    this.settledCount = (this.settledCount + 1) | 0;
    if (this.inFlight === 0 && this.#idle.length > 0) {
      for (const wake of this.#idle.splice(0)) wake();
    }
  };

  /** Resolves when a request that was not let in may try again; rejects with `ESHUTDOWN`. */
  held(op: Operation): Promise<void> {
    return this.#gate === undefined ? Promise.reject(this.closedError(op)) : this.#gate.promise;
  }

  closedError(op: Operation): BlockIoError {
    return new BlockIoError("the device is closed", { code: "ESHUTDOWN", device: this.#hooks.name, op });
  }

  suspend(): Promise<void> {
    return this.#turns.pass(async () => {
      this.#checkNotClosed("suspend");
      if (this.#isQuiet) return;
      await this.#hold();
      this.#isResting = true;
      await this.#hooks.rest();
      this.#isQuiet = true;
    });
  }

  resume(): Promise<void> {
    return this.#turns.pass(async () => {
      this.#checkNotClosed("resume");
      await this.#wake();
      this.#letGo();
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  #close(): Promise<void> {
    // At once, whatever else is under way: no request is let in or held any more.
    this.state = "closed";
    this.#gate?.refuse(this.closedError("close"));
    this.#hooks.willDrain();
    return this.#turns.pass(async () => {
      await this.#drained();
      try {
        await this.#wake();
        await this.#hooks.flush();
      } finally {
        await this.#hooks.end();
      }
    });
  }

  /**
   * Runs what must not meet a suspend, resume or close when those asked for before it are over; at once if there are
   * none. From when it has called `quiet` until it is over no request is under way, and what was answered is flushed;
   * rejects with what the flush does, or `ESHUTDOWN`.
   */
  inTurn(work: (quiet: () => Promise<void>) => Promise<void>): Promise<void> {
    return this.#turns.pass(async () => {
      let isHeld = false;
      const quiet = async (): Promise<void> => {
        this.#checkNotClosed("suspend");
        if (this.#isQuiet) return;
        isHeld = this.state === "open";
        await this.#hold();
      };
      try {
        await work(quiet);
      } finally {
        if (isHeld) this.#letGo();
      }
    });
  }

  async #hold(): Promise<void> {
    this.state = "suspended";
    this.#gate ??= makeGate();
    this.#hooks.willDrain();
    await this.#drained();
    // A suspend that failed may have left it at rest, and what rests may flush nothing.
    if (this.#isResting) await this.#wake();
    await this.#hooks.flush();
  }

  #letGo(): void {
    // Close may have been asked for meanwhile.
    if (this.state === "closed") return;
    this.state = "open";
    this.#isQuiet = false;
    this.#gate?.open();
    this.#gate = undefined;
  }

  async #wake(): Promise<void> {
    if (!this.#isResting) return;
    this.#isResting = false;
    await this.#hooks.wake();
  }

  #checkNotClosed(op: Operation): void {
    if (this.state === "closed") throw this.closedError(op);
  }

  #drained(): Promise<void> {
    if (this.inFlight === 0) return done;
    return new Promise((resolve) => this.#idle.push(resolve));
  }
}
