/** Writing back everything that is dirty at a moment, for all who ask: they may be several, and end at any time. */
import { type BlockIoError, type SettingsTable, checkSettings, setting } from "@dmkit/block-io";
import type { SegmentLog } from "../log/segment-log.ts";
import type { DropProgress } from "../control/messages.ts";
import { interrupted } from "../refusals.ts";
import type { Writeback } from "./writeback.ts";

export interface DropOptions {
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: DropProgress) => void) | undefined;
  /**
   * Nothing that comes after a segment which cannot be read or is damaged, so that the backing device stays as it was
   * at some segment. Default: all the others, and then the error.
   */
  readonly inOrder?: boolean | undefined;
}

const dropSettings: SettingsTable<DropOptions> = {
  signal: setting.signal,
  progress: setting.call,
  inOrder: setting.flag,
};

export class DropCaches {
  readonly #log: SegmentLog;
  readonly #failure: () => BlockIoError | undefined;
  #running = 0;
  #inOrder = 0;
  #ends = 0;

  constructor(log: SegmentLog, failure: () => BlockIoError | undefined) {
    this.#log = log;
    this.#failure = failure;
  }

  get isRunning(): boolean {
    return this.#running > 0;
  }

  /** Whether later segments are wanted although one before them cannot be read. */
  get goesPast(): boolean {
    return this.#running > this.#inOrder;
  }

  /** Ends all that are under way. */
  end(): void {
    this.#ends += 1;
    this.#log.changed.notify();
  }

  /** Throws the error of a writeback that failed, `ESHUTDOWN` when it is ended, the signal's reason if it is aborted. */
  async run(writeback: Writeback, device: string, options: DropOptions): Promise<void> {
    const log = this.#log;
    const { signal, progress } = checkSettings(dropSettings, options, "message");
    const wake = (): void => log.changed.notify();
    signal?.addEventListener("abort", wake);
    const ends = this.#ends;
    const inOrder = options.inOrder === true ? 1 : 0;
    this.#running += 1;
    this.#inOrder += inOrder;
    try {
      log.check();
      log.close();
      const targetId = log.newestClosed;
      const report = (): void =>
        progress?.({ dirtyBlocks: log.map.dirtyBlocks, lastWritebackId: log.lastWriteback, targetId });
      if (log.lastWriteback < targetId) report();
      // Where a segment cannot be read, all that there is to write is looked at once.
      await log.flushed(targetId);
      const { failures } = writeback;
      const { relogged } = writeback.bad;
      while (log.lastWriteback < targetId) {
        log.check();
        signal?.throwIfAborted();
        const failure = this.#failure();
        if (failure !== undefined) throw failure;
        if (this.#ends !== ends) throw interrupted(device);
        if (writeback.failures !== failures) throw writeback.lastError;
        report();
        writeback.kick();
        await log.changed.wait();
      }
      // All the others have been: what the backing device does not take has only moved on in the log.
      if (writeback.bad.relogged !== relogged) throw writeback.lastError;
    } finally {
      this.#running -= 1;
      this.#inOrder -= inOrder;
      signal?.removeEventListener("abort", wake);
    }
  }
}
