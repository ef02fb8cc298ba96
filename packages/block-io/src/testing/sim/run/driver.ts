/**
 * Drives a world: at each step one of the things that could happen next does (a request is submitted, a lower
 * request completes, deferred work runs, a timer fires), and then everything that hangs on it settles.
 *
 * It ends when the work is done, when the step of the crash is reached, or when nothing can happen any more.
 * Waiting for ever is recognised: no lower I/O, no deferred work, no timers, and yet something is unanswered;
 * or a great deal happens, but nothing is ever answered.
 */
import { realEnvironment } from "../../../contract/environment.ts";
import type { Load } from "./load.ts";
import type { Prng } from "../prng.ts";
import type { CompletionOrder, Operation } from "./workload.ts";
import { type ParkedIo, type World, settleMicrotasks, settleTurn } from "../disk/world.ts";

/** How a drive ended. `blocked`: an injected fault keeps it waiting for ever. `hung`: nothing excuses that. */
export type Outcome = "done" | "crash" | "blocked" | "hung";

/** The answer of a promise, if there was one. `error` is set iff it was rejected. */
export interface Waited<T> {
  readonly outcome: Outcome;
  readonly value?: T;
  readonly error?: unknown;
}

export interface DriveStyle {
  readonly eagerness: number;
  readonly haste: number;
  /** With `first` nothing at all is left to chance. */
  readonly order: CompletionOrder;
  /** Lower I/O may fail, or is real: settle by whole turns of the event loop. */
  readonly wholeTurns: boolean;
  /** Something outside of the simulation may happen; wait for it. */
  readonly real: boolean;
}

/** Steps without an answer that count as a hang. */
const PATIENCE = 30_000;
/** The same, where an injected fault keeps a request back for ever. */
const FAULT_PATIENCE = 400;
/** Steps without an answer after which a request that hangs once is answered in any case. */
const LATE = 150;
/** Timers that fire while nothing else happens. Enough for an hour of a daemon that wakes up each second. */
const TIMER_PATIENCE = 3600;
/** Real milliseconds. */
const REAL_PATIENCE = 20_000;

export class Driver {
  readonly world: World;
  readonly style: DriveStyle;
  /** Steps of this generation. */
  steps = 0;
  /** The step at which the power fails. */
  crashAt: number = Number.POSITIVE_INFINITY;
  /** Called before each step, to look at the state a crash would find. */
  onStep: (() => Promise<void>) | undefined;
  readonly #random: Prng;
  #quietTimers = 0;
  #lastAnswer = 0;
  // The request that is kept back, by its ordinal.
  #victim = -1;

  constructor(world: World, random: Prng, style: DriveStyle) {
    this.world = world;
    this.#random = random;
    this.style = style;
  }

  /** Submits all of `queue`, `concurrency` at a time, and waits for the answers. */
  async work(load: Load, queue: Operation[], concurrency: number): Promise<Outcome> {
    let next = 0;
    let settled = load.settled;
    this.#lastAnswer = this.steps;
    for (;;) {
      if (next === queue.length && load.inFlight === 0) return "done";
      if (this.steps >= this.crashAt) return "crash";
      if (this.onStep !== undefined) await this.onStep();
      this.steps += 1;
      const submits = next < queue.length && load.inFlight < concurrency && this.#submitsNow();
      if (submits) {
        void load.submit(queue[next] as Operation);
        next += 1;
      } else if (!this.#advance()) {
        if (next < queue.length && load.inFlight < concurrency) {
          void load.submit(queue[next] as Operation);
          next += 1;
        } else if (this.world.parked.length > 0) return "blocked";
        else if (!(await this.#realWorld(() => load.settled > settled))) return "hung";
      }
      await this.#settle();
      if (load.settled > settled) {
        settled = load.settled;
        this.#lastAnswer = this.steps;
        this.#quietTimers = 0;
      } else if (this.#lostPatience()) return this.#stuck() ? "blocked" : "hung";
    }
  }

  /** Waits for a promise of the target; never throws. */
  async wait<T>(promise: Promise<T>): Promise<Waited<T>> {
    const answer: { settled?: Waited<T> } = {};
    promise.then(
      (value) => {
        answer.settled = { outcome: "done", value };
      },
      (error: unknown) => {
        answer.settled = { outcome: "done", error: error ?? new Error("rejected without a reason") };
      },
    );
    await this.#settle();
    this.#lastAnswer = this.steps;
    while (answer.settled === undefined) {
      if (this.steps >= this.crashAt) return { outcome: "crash" };
      if (this.onStep !== undefined) await this.onStep();
      this.steps += 1;
      if (!this.#advance()) {
        if (this.world.parked.length > 0) return { outcome: "blocked" };
        if (!(await this.#realWorld(() => answer.settled !== undefined))) return { outcome: "hung" };
      }
      await this.#settle();
      if (this.#lostPatience()) return { outcome: this.#stuck() ? "blocked" : "hung" };
    }
    this.#quietTimers = 0;
    return answer.settled;
  }

  /** Lets background work go on for some steps; ends early when there is none. */
  async idle(steps: number): Promise<Outcome> {
    for (let step = 0; step < steps; step += 1) {
      if (this.steps >= this.crashAt) return "crash";
      if (this.onStep !== undefined) await this.onStep();
      if (!this.#advance()) break;
      this.steps += 1;
      await this.#settle();
    }
    return "done";
  }

  #submitsNow(): boolean {
    const busy = this.world.parked.length > 0 || this.world.deferred > 0;
    if (!busy) return true;
    return !this.#inOrder && this.#random.chance(this.style.eagerness);
  }

  /** One thing happens in the world; false if nothing can. */
  #advance(): boolean {
    const { world } = this;
    const { haste } = this.style;
    const { parked } = world;
    const inOrder = this.#inOrder;
    // Somebody may keep busy while waiting for it: late is late enough then.
    if (this.steps - this.#lastAnswer > LATE && this.#completeLateIo()) return true;
    if (!inOrder && world.timers > 0 && haste > 0 && this.#random.chance(haste)) {
      world.fireTimer();
      return true;
    }
    if (world.deferred > 0 && (parked.length === 0 || (!inOrder && this.#random.chance(0.5)))) {
      world.runDeferred();
      return true;
    }
    const ready = this.#readyIo();
    if (ready >= 0) {
      this.#quietTimers = 0;
      world.completeIo(ready);
      // Answers often arrive together.
      if (!inOrder && parked.length > 1 && this.#random.chance(0.1)) {
        const another = this.#readyIo();
        if (another >= 0) world.completeIo(another);
      }
      return true;
    }
    if (world.timers > 0 && this.#quietTimers < (parked.length > 0 ? 50 : TIMER_PATIENCE)) {
      this.#quietTimers += 1;
      world.fireTimer();
      return true;
    }
    return this.#completeLateIo();
  }

  #completeLateIo(): boolean {
    const late = this.world.parked.findIndex((io) => io.hangs === "once");
    if (late < 0) return false;
    this.world.completeIo(late);
    return true;
  }

  get #inOrder(): boolean {
    return this.style.order === "first";
  }

  /** The index of the request that completes next, or -1. */
  #readyIo(): number {
    const { parked } = this.world;
    if (parked.length === 0) return -1;
    const chosen = this.#chooseIo(parked);
    if (parked[chosen]?.hangs === false) return chosen;
    return parked.findIndex((io) => io.hangs === false);
  }

  #chooseIo(parked: readonly ParkedIo[]): number {
    const random = this.#random;
    switch (this.style.order) {
      case "first":
        return 0;
      case "random":
        return random.below(parked.length);
      case "last":
        return random.chance(0.9) ? parked.length - 1 : random.below(parked.length);
      case "starve": {
        const chosen = random.below(parked.length);
        const io = parked[chosen] as ParkedIo;
        if (this.#victim < 0 || random.chance(0.02)) this.#victim = io.ordinal;
        if (io.ordinal !== this.#victim || parked.length === 1) return chosen;
        return chosen > 0 ? chosen - 1 : 1;
      }
    }
  }

  #lostPatience(): boolean {
    const waited = this.steps - this.#lastAnswer;
    return waited > PATIENCE || (waited > FAULT_PATIENCE && this.#stuck());
  }

  /** Whether an injected fault keeps a request back for ever. */
  #stuck(): boolean {
    return this.world.parked.some((io) => io.hangs === "for ever");
  }

  #settle(): Promise<void> {
    return this.style.wholeTurns ? settleTurn() : settleMicrotasks();
  }

  /** Waits for something outside of the simulation; false if there is nothing to wait for, or it never came. */
  async #realWorld(happened: () => boolean): Promise<boolean> {
    if (!this.style.real) return false;
    const { clock } = realEnvironment;
    const start = clock.now();
    while (!happened() && this.world.parked.length === 0 && clock.now() - start < REAL_PATIENCE) {
      await settleTurn();
    }
    return clock.now() - start < REAL_PATIENCE;
  }
}
