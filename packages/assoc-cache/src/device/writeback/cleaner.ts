/**
 * Writes dirty blocks back in the background: some batches of copies, one flush of the source, one commit. One
 * batch at a time; which blocks, {@link CleaningPlan} says.
 *
 * A block that cannot be copied is set aside for a while, and the others go on; with too many of them it is the device
 * that does not work.
 *
 * A block may be written to while the source is flushed: then it is no longer `written` but `dirty`, and stays so.
 */
import {
  BlockIoError,
  type LongWork,
  type RangeGrant,
  type Pace,
  type Timer,
  done,
  isOfPlace,
  checkSettings,
  workSettings,
} from "@dmkit/block-io";
import { AgeWatch } from "./age-watch.ts";
import { CleaningPlan, type Watermarks } from "../../core/cleaning-plan.ts";
import type { Metadata } from "../metadata/metadata.ts";
import type { CacheState } from "../state.ts";
import type { Writeback } from "./writeback.ts";

export interface CleanerSettings {
  readonly watermarks: Watermarks;
  /** Milliseconds after which a dirty block is written back, within twice that; 0: never because of its age. */
  readonly ageLimit: number;
  /** For what nobody waits for. */
  readonly pace: Pace;
}

/** Frames that are locked and copied together at most. */
const BATCH = 64;
/** Batches that share a flush of the source and a commit. */
const BATCHES = 16;
/** Blocks that are set aside at most before writing back as a whole counts as failed. */
const MOST_ASIDE = 1024;
/** There was nothing to clean. */
const NOTHING = -1;
/** Milliseconds until writing back is tried again after it failed. */
const RETRY = 5000;

interface Batch {
  readonly copied: readonly number[];
  readonly failed: readonly number[];
  /** The first error of those that failed. */
  readonly failure: unknown;
}

/** Who waits until all is clean. */
interface Waiting {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  /** Some batches are clean. */
  readonly tell: () => void;
}

export class Cleaner {
  settings: CleanerSettings;
  readonly #state: CacheState;
  readonly #writeback: Writeback;
  readonly #metadata: Metadata;
  readonly #plan: CleaningPlan;
  #running: Promise<void> | undefined;
  #halted = 0;
  #waiting: Waiting[] = [];
  #retry: Timer | undefined;
  /** When what was set aside is tried again. */
  #again: Timer | undefined;
  /** When the pace lets it go on. */
  #later: Timer | undefined;
  /** Why the first of the frames set aside could not be copied; told when all others have been. */
  #bad: BlockIoError | undefined;
  readonly #ages: AgeWatch;
  /** The failure that was logged last. */
  #told: string | undefined;

  constructor(state: CacheState, writeback: Writeback, metadata: Metadata, settings: CleanerSettings) {
    this.#state = state;
    this.#writeback = writeback;
    this.#metadata = metadata;
    this.settings = settings;
    this.#plan = new CleaningPlan(state.frames, settings.watermarks);
    this.#ages = new AgeWatch(state.environment.clock, this.#plan, () => {
      this.#kick();
      if (state.frames.dirty > 0) this.noticeDirty();
    });
  }

  /** Dirty blocks that could not be copied, and are set aside. */
  get aside(): number {
    return this.#plan.aside;
  }

  /** A set is full of dirty blocks: write this frame back first. */
  urgent(frame: number): void {
    this.#plan.urgent(frame);
    this.#kick();
  }

  /** More blocks are dirty than before. */
  noticeDirty(): void {
    if (this.#state.frames.dirty > this.settings.watermarks.high) this.#kick();
    if (this.settings.ageLimit > 0 && this.#halted === 0) this.#ages.begin(this.settings.ageLimit);
  }

  /** Also when the pace has changed. */
  changeSettings(settings: CleanerSettings): void {
    this.settings = settings;
    this.#plan.watermarks = settings.watermarks;
    this.#later?.cancel();
    this.#later = undefined;
    this.#kick();
  }

  /**
   * Writes back everything that is dirty now. Rejects with what went wrong, or the signal's reason; blocks stay dirty then:
   * those that cannot be copied, or, if nothing works any more or the signal came, all but those of the batches under way.
   */
  async cleanAll(work: LongWork = {}): Promise<void> {
    const { signal, progress } = checkSettings(workSettings, work, "message");
    signal?.throwIfAborted();
    if (this.#state.frames.dirty === 0) return await this.#metadata.commitDrops();
    const broken = this.#state.sourceError ?? this.#state.cacheError;
    if (broken !== undefined) throw broken;
    this.#plan.allDue();
    const { statistics, frames } = this.#state;
    const [before, total] = [statistics.writtenBack, frames.dirty];
    let stop = (): void => {};
    const finished = new Promise<void>((resolve, reject) => {
      const tell = (): void =>
        progress?.({ done: Math.min(total, statistics.writtenBack - before), total, unit: "blocks" });
      const waiting = { resolve, reject, tell };
      this.#waiting.push(waiting);
      stop = () => {
        this.#waiting = this.#waiting.filter((other) => other !== waiting);
        if (this.#waiting.length === 0) this.#plan.noneDue();
        reject(signal?.reason);
      };
    });
    signal?.addEventListener("abort", stop);
    this.#retry?.cancel();
    this.#retry = undefined;
    this.#kick();
    await finished.finally(() => signal?.removeEventListener("abort", stop));
  }

  /** Stops after the batch that is under way; to be balanced by {@link resume}. */
  async pause(): Promise<void> {
    this.#halted += 1;
    this.#ages.stop();
    for (const timer of [this.#retry, this.#again, this.#later]) timer?.cancel();
    this.#retry = this.#again = this.#later = undefined;
    await this.#running;
    this.#plan.retry();
  }

  resume(): void {
    this.#halted -= 1;
    if (this.#halted > 0) return;
    if (this.#state.frames.dirty > 0) this.noticeDirty();
    this.#kick();
  }

  /** Something failed for good: nothing can be cleaned until the cache is opened again. */
  get #broken(): boolean {
    return this.#state.sourceError !== undefined || this.#state.cacheError !== undefined;
  }

  #kick(): void {
    if (this.#running !== undefined || this.#halted > 0 || this.#retry !== undefined || this.#broken) return;
    if (!this.#plan.wanted && this.#waiting.length === 0) return;
    if (!this.#rests()) this.#running = this.#run();
  }

  /** Nobody waits for it, and the pace does not let it go on yet; then it goes on by itself. */
  #rests(): boolean {
    if (this.#plan.hasUrgent || this.#waiting.length > 0) return false;
    if (this.#later !== undefined) return true;
    const { wait } = this.settings.pace;
    if (wait === 0) return false;
    this.#later = this.#state.environment.clock.after(wait, () => {
      this.#later = undefined;
      this.#kick();
    });
    return true;
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    let failure: unknown;
    // Not before the caller has noted that this is running.
    await done;
    try {
      // The loop ends when there is nothing to do; whoever finds more to do starts another.
      while (this.#halted === 0 && !this.#rests()) {
        const copied = await this.#copySome();
        if (copied === NOTHING) break;
        this.settings.pace.did(copied);
      }
    } catch (error) {
      failure = error;
    }
    this.#running = undefined;
    if (failure !== undefined) this.#failed(failure);
    else if (this.#bad !== undefined && !this.#plan.hasDue) this.#leave(this.#bad);
    else if (!this.#plan.hasDue) for (const { resolve } of this.#waiting.splice(0)) resolve();
    // Something may have been asked for while the last look was on its way here.
    if (failure === undefined && this.#plan.asked) this.#kick();
  }

  #tell(failure: unknown): void {
    const { environment, name } = this.#state;
    this.#bad = undefined;
    for (const { reject } of this.#waiting.splice(0)) reject(failure);
    // It is tried again every few seconds: told once, until it succeeds.
    if (this.#told !== String(failure)) {
      environment.logger.log("error", `${name}: writing back failed`, { cause: String(failure) });
    }
    this.#told = String(failure);
  }

  /** All is done but for what was set aside, which is tried again later; meanwhile others are cleaned. */
  #leave(cause: BlockIoError): void {
    const { environment, name } = this.#state;
    const left = this.#plan.aside;
    const blocks = left === 1 ? "1 block" : `${left} blocks`;
    this.#tell(
      new BlockIoError(`${blocks} could not be written back: ${cause.message}`, {
        code: cause.code,
        device: name,
        cause,
        hint: "All others have been. Mend the device; what is left stays dirty and is tried again by itself.",
      }),
    );
    this.#again ??= environment.clock.after(RETRY, () => {
      this.#again = undefined;
      this.#plan.retry();
      this.#kick();
    });
  }

  #failed(failure: unknown): void {
    const { environment } = this.#state;
    this.#plan.forget();
    this.#plan.retry();
    this.#tell(failure);
    if (this.#broken || this.#halted > 0) return;
    this.#retry = environment.clock.after(RETRY, () => {
      this.#retry = undefined;
      this.#kick();
    });
  }

  /**
   * Some batches, one flush of the source and one commit for all of them. Resolves with the bytes copied, or
   * NOTHING; rejects with what failed after doing what could be done.
   */
  async #copySome(): Promise<number> {
    const copied: number[] = [];
    const cold: number[] = [];
    let failure: unknown;
    let batches = 0;
    const most = this.#mostFrames();
    for (; batches < BATCHES && failure === undefined && this.#halted === 0; batches += 1) {
      const { frames, urgent } = this.#plan.next(Math.min(BATCH, most - copied.length), copied.length);
      if (frames.length === 0) break;
      const result = await this.#copyBatch(frames);
      (urgent ? cold : copied).push(...result.copied);
      failure = this.#setAside(result);
      // Whoever found a set full waits for room, not for company.
      if (urgent) break;
    }
    if (batches === 0 && copied.length + cold.length === 0 && failure === undefined) return NOTHING;
    try {
      await this.#state.flushSource();
    } catch (error) {
      this.#writeback.uncovered([...copied, ...cold]);
      throw error;
    }
    this.#writeback.cleaned(copied, false);
    this.#writeback.cleaned(cold, true);
    await this.#metadata.commitDrops();
    for (const { tell } of this.#waiting) tell();
    if (failure !== undefined) throw failure;
    if (this.#bad === undefined && this.#again === undefined) this.#told = undefined;
    return (copied.length + cold.length) * this.#state.blockBytes;
  }

  /** Frames that may be copied before the pace is looked at again: under a rate, what it allows in a second. */
  #mostFrames(): number {
    const { rate } = this.settings.pace;
    const all = rate === 0 || this.#waiting.length > 0;
    return all ? BATCH * BATCHES : Math.max(1, Math.floor(rate / this.#state.blockBytes));
  }

  /** Of what could not be copied, why it is not to go on; undefined if it is. */
  #setAside({ failed, failure }: Batch): unknown {
    if (failure === undefined || !isOfPlace(failure) || this.#plan.aside + failed.length > MOST_ASIDE)
      return failure;
    this.#bad ??= failure;
    this.#plan.setAside(failed);
    return undefined;
  }

  async #copyBatch(wanted: readonly number[]): Promise<Batch> {
    const { frames, lock } = this.#state;
    const { taken, grants } = await this.#lockAll(wanted);
    try {
      const tried = taken.filter((frame) => frames.isDirty(frame));
      const { copied, failure } = await this.#writeback.copy(tried);
      this.#writeback.copiedForNow(copied);
      const isCopied = new Set(copied);
      return { copied, failed: tried.filter((frame) => !isCopied.has(frame)), failure };
    } finally {
      for (const grant of grants) lock.release(grant);
    }
  }

  /** Locks the blocks of the frames that are still dirty. */
  async #lockAll(wanted: readonly number[]): Promise<{ taken: number[]; grants: RangeGrant[] }> {
    const { frames, lock } = this.#state;
    const taken: number[] = [];
    const grants: RangeGrant[] = [];
    const busy: number[] = [];
    for (const frame of wanted) {
      if (!frames.isDirty(frame)) continue;
      const grant = lock.tryAcquire(frames.blockOf(frame), 1, true);
      if (grant === undefined) busy.push(frame);
      else {
        taken.push(frame);
        grants.push(grant);
      }
    }
    // Waiting while holding other blocks could be for ever; so busy ones wait for a batch of their own.
    const first = busy[0];
    if (grants.length === 0 && first !== undefined) {
      const block = frames.blockOf(first);
      grants.push(await lock.acquire(block, 1, true));
      if (frames.isDirty(first) && frames.blockOf(first) === block) taken.push(first);
      busy.shift();
    }
    for (const frame of busy) this.#plan.urgent(frame);
    return { taken, grants };
  }
}
