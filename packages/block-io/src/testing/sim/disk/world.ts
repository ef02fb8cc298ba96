/**
 * The world of a simulated target: a virtual clock, timers, deferred work, and the lower I/O in flight. Nothing
 * happens by itself. Whoever drives the world picks one of the things that could happen next, lets it happen,
 * and waits until all promises that hang on it have had their say.
 *
 * Invariant: after {@link World.crash} nothing of the crashed generation runs again: its timers are gone, its
 * I/O never settles, and what it still issues is swallowed.
 */
import {
  type Clock,
  type Environment,
  type Logger,
  type Random,
  type Scheduler,
  realEnvironment,
} from "../../../contract/environment.ts";
import { Prng } from "../prng.ts";
import type { Trace } from "../trace.ts";

/** A lower request that waits for its turn to complete. */
export interface ParkedIo {
  /** Counted from 0 over the whole run. */
  readonly ordinal: number;
  /** Answered only when nothing else can go on, or never. */
  readonly hangs: false | "once" | "for ever";
  /** Carries it out and settles its promise. */
  complete(): void;
  describe(): string;
}

interface VirtualTimer {
  readonly at: number;
  readonly serial: number;
  readonly callback: () => void;
}

/** Virtual milliseconds a request takes. */
const IO_TIME = 0.05;
// A wall clock that starts at a round, recognisable time: 2020-01-01.
const WALL_START = 1_577_836_800_000;

export class World {
  readonly trace: Trace;
  /** Requests that could complete next, in the order they were issued. */
  readonly parked: ParkedIo[] = [];
  /** Errors thrown by timers and deferred work of the target. */
  readonly escaped: unknown[] = [];
  #now = 0;
  #serial = 0;
  #issued = 0;
  #timers: VirtualTimer[] = [];
  #deferred: (() => void)[] = [];
  #generation = 0;

  constructor(trace: Trace) {
    this.trace = trace;
  }

  /** Virtual milliseconds since the run began. */
  get now(): number {
    return this.#now;
  }

  get timers(): number {
    return this.#timers.length;
  }

  get deferred(): number {
    return this.#deferred.length;
  }

  /** Counts up with every crash: things of an older generation are dead. */
  get generation(): number {
    return this.#generation;
  }

  nextOrdinal(): number {
    this.#issued += 1;
    return this.#issued - 1;
  }

  /** What a target of the current generation may know of the world; `seed` is for its random numbers. */
  environment(seed: number): Environment {
    const generation = this.#generation;
    const alive = (): boolean => generation === this.#generation;
    const clock: Clock = {
      now: () => this.#now,
      wallTime: () => Math.floor(WALL_START + this.#now),
      after: (milliseconds, callback) => {
        if (!alive()) return { cancel() {} };
        const timer = { at: this.#now + Math.max(0, milliseconds), serial: this.#serial++, callback };
        this.#timers.push(timer);
        return { cancel: () => void remove(this.#timers, timer) };
      },
    };
    const scheduler: Scheduler = {
      defer: (callback) => {
        if (alive()) this.#deferred.push(callback);
      },
    };
    const random: Random = new Prng(seed, generation);
    const logger: Logger = {
      log: (level, message) => {
        if (this.trace.verbose && alive()) this.trace.line(`  log ${level}: ${message}`);
      },
    };
    return { clock, scheduler, random, logger };
  }

  /** Completes the parked request at `index`. */
  completeIo(index: number): void {
    const [io] = this.parked.splice(index, 1) as [ParkedIo];
    this.#now += IO_TIME;
    if (this.trace.verbose) this.trace.line(`  ${this.#stamp()} done ${io.describe()}`);
    this.trace.note(1, io.ordinal);
    io.complete();
  }

  /** Runs the work that was deferred first. */
  runDeferred(): void {
    const work = this.#deferred.shift();
    this.trace.note(2);
    if (this.trace.verbose) this.trace.line(`  ${this.#stamp()} deferred work`);
    if (work !== undefined) this.#guarded(work);
  }

  /** Lets time pass until the next timer is due, and fires it. */
  fireTimer(): void {
    let next: VirtualTimer | undefined;
    for (const timer of this.#timers) {
      if (next === undefined || timer.at < next.at || (timer.at === next.at && timer.serial < next.serial)) {
        next = timer;
      }
    }
    if (next === undefined) return;
    remove(this.#timers, next);
    this.#now = Math.max(this.#now, next.at);
    this.trace.note(3, Math.floor(this.#now));
    if (this.trace.verbose) this.trace.line(`  ${this.#stamp()} timer`);
    this.#guarded(next.callback);
  }

  /** The process is gone: whatever it was waiting for never comes. */
  crash(): void {
    this.#generation += 1;
    this.parked.length = 0;
    this.#timers.length = 0;
    this.#deferred.length = 0;
  }

  #guarded(callback: () => void): void {
    try {
      callback();
    } catch (error) {
      this.escaped.push(error);
    }
  }

  #stamp(): string {
    return `${this.#now.toFixed(2).padStart(10)} ms`;
  }
}

function remove(timers: VirtualTimer[], timer: VirtualTimer): void {
  const index = timers.indexOf(timer);
  if (index >= 0) timers.splice(index, 1);
}

/**
 * Waits until every promise that can settle has settled, which one turn of the tick queue guarantees: ticks
 * run when no microtask is left. Costs about a sixth of a turn of the event loop.
 */
export function settleMicrotasks(): Promise<void> {
  return new Promise((resolve) => {
    process.nextTick(resolve);
  });
}

/**
 * Waits for one whole turn of the event loop: promises, ticks of streams, and the verdict on rejections nobody
 * handled. Needed wherever lower I/O may fail.
 */
export function settleTurn(): Promise<void> {
  return new Promise((resolve) => {
    realEnvironment.scheduler.defer(resolve);
  });
}
