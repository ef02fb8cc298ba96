/**
 * Barriers: everything acknowledged so far becomes durable, for all who wait by one.
 *
 *      type 0    closes the open segment, writes it, flushes the cache device
 *      type 1    writes the new records to the plog, flushes it; see plog-writer.ts
 *      both      then ship the log to the archive, if there is one and flushes wait for it, and
 *                flush the backing device, if anything went past the log
 *
 * Invariants:
 *
 * - whatever is acknowledged is counted first ({@link Barriers.changed}): a barrier that runs already is joined
 *   only if that count has not moved since it began;
 * - what fails here fails for good: a later flush that succeeds says nothing about what this one lost. Unless the
 *   device below says that nothing was lost (`lossless`): then nothing counts as durable, and the next barrier does all
 *   of it again.
 */
import {
  type BlockDevice,
  type BlockIoError,
  FlushGroup,
  type Scheduler,
  done,
  toBlockIoError,
} from "@dmkit/block-io";
import type { Bypass } from "./bypass.ts";
import { Forecast } from "./forecast.ts";
import type { Parts } from "../parts.ts";

/** The failed state of the device. */
export interface FailedState {
  readonly failure: () => BlockIoError | undefined;
  readonly fail: (error: BlockIoError) => void;
}

export class Barriers {
  readonly #parts: Parts;
  readonly #backing: BlockDevice;
  readonly #bypass: Bypass;
  readonly #scheduler: Scheduler;
  readonly #state: FailedState;
  readonly #group: FlushGroup;
  // Without a plog a barrier closes the segment: too much for a guess.
  readonly #forecast: Forecast | undefined;
  #changes = 0;
  /** A barrier that nobody has asked for yet is about to begin, or runs. */
  #foreseen: Promise<void> | undefined;
  #stopped = false;
  /** How many clients have asked for, ever, of those that had something to do. */
  asked = 0;
  #changesWhenAsked = 0;
  /** Those from now on are nobody's wish, and not counted as partial flushes. */
  quiet = false;

  constructor(parts: Parts, bypass: Bypass, scheduler: Scheduler, state: FailedState) {
    this.#parts = parts;
    this.#backing = parts.backing;
    this.#bypass = bypass;
    this.#scheduler = scheduler;
    this.#state = state;
    this.#forecast = parts.plog && new Forecast();
    this.#group = new FlushGroup(
      () => this.#barrier(),
      () => this.#changes,
    );
  }

  /** A request that changed anything is over, and about to be acknowledged, or made durable before it is. */
  changed(): void {
    this.#changes += 1;
    if (this.#forecast?.wrote() === true) this.#foresee();
  }

  /** For a client. Errors: `EIO`. */
  ask(): Promise<void> {
    if (this.#changes !== this.#changesWhenAsked) this.asked += 1;
    this.#changesWhenAsked = this.#changes;
    this.#forecast?.asked();
    return this.#group.flush();
  }

  /** For ourselves: does not count as one of a client. */
  async run(): Promise<void> {
    const { quiet } = this;
    this.quiet = true;
    const barrier = this.#group.flush();
    this.quiet = quiet;
    await barrier;
  }

  /** Begins none of itself any more, and waits for one that it began. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#foreseen;
  }

  start(): void {
    this.#stopped = false;
  }

  /** Begins one that a client is expected to ask for, when the replies to what it wrote are on their way. */
  #foresee(): void {
    this.#foreseen ??= new Promise((resolve) => {
      this.#scheduler.defer(() => {
        const idle =
          // Asked for meanwhile, by a write with FUA for instance.
          this.#changes === this.#changesWhenAsked ||
          this.#stopped ||
          this.#parts.log.dead !== undefined ||
          this.#state.failure() !== undefined;
        const barrier = idle ? done : this.#group.flush();
        // Whoever asks for what it failed to do is told.
        void barrier
          .catch(() => {})
          .then(() => {
            this.#foreseen = undefined;
            resolve();
          });
      });
    });
  }

  async #barrier(): Promise<void> {
    const { log, plog, shipper, statistics } = this.#parts;
    log.check();
    let closed: number | undefined;
    if (plog !== undefined) {
      await plog.commit();
    } else {
      if (log.count > 0) {
        log.close();
        if (!this.quiet) statistics.partialFlushes += 1;
      }
      closed = log.newestClosed;
      await log.makeDurable(closed);
    }
    await shipper?.barrier(closed);
    try {
      await this.#bypass.flush(this.#backing);
      // A flush for writeback may have failed meanwhile and taken with it what went past the log; that this
      // one succeeded after it means nothing.
      const failure = this.#state.failure();
      if (failure !== undefined) throw failure;
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.#backing.name, op: "flush" });
      if (failure.lossless) throw failure;
      this.#state.fail(failure);
      // Whoever waits for writeback: there will be none.
      log.changed.notify();
      throw failure;
    }
  }
}
