/**
 * Copies what the layer right below the top holds, and the top lacks, into the top, while clients write to it.
 *
 * Invariants:
 *
 * - while a part is copied nobody else writes to it: what is copied there is what it shows, never older;
 * - what is copied is a write like those of clients, of what is there already: it is lost by a crash as a whole or in parts, and
 *   the stack shows the same.
 */
import { type BlockIoError, RangeLock, SECTOR } from "@dmkit/block-io";
import type { KnownRun } from "../depths.ts";
import type { WorkOptions } from "../copy/work.ts";

/** Sectors copied at a time: 1 MiB. */
const PART = 2048;
/** Where none are to be copied, it is told this often how far it is: 128 MiB. */
const STRETCH = 128 * PART;

/** The top, without the lock. */
export interface Filled {
  /** Sectors of the stack. */
  readonly sectors: number;
  knownRun(sector: number, end: number): Promise<KnownRun>;
  write(offset: number, bytes: Buffer): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
  flush(): Promise<void>;
  /** Why nothing is written any more. */
  failure(): BlockIoError | undefined;
}

export class Filling {
  readonly #lock = new RangeLock();
  readonly #top: Filled;
  readonly #excludes: boolean;

  constructor(top: Filled, excludes: boolean) {
    this.#top = top;
    this.#excludes = excludes;
  }

  /** Runs a client's write of a range, in bytes: not while that is copied. */
  beside(offset: number, length: number, write: () => Promise<void>): Promise<void> {
    return this.#lock.with(offset, length, false, write);
  }

  /** Every write of a client must go through `beside` by now. Errors: those of the devices, the signal's reason. */
  async run({ signal, progress }: WorkOptions): Promise<void> {
    const { sectors } = this.#top;
    for (let sector = 0; sector < sectors; ) {
      signal?.throwIfAborted();
      const { until, depth } = await this.#top.knownRun(sector, Math.min(sectors, sector + STRETCH));
      const next = depth === 1 ? Math.min(until, sector + PART) : until;
      if (depth === 1) await this.#copy(sector, next);
      sector = next;
      progress?.(sector * SECTOR);
    }
    // Clients wait for the next flush: it is not to be that of all that was copied.
    await this.#top.flush();
  }

  #copy(from: number, end: number): Promise<void> {
    const copy = (): Promise<void> => this.#copyAlone(from, end);
    if (!this.#excludes) return copy();
    return this.#lock.with(from * SECTOR, (end - from) * SECTOR, true, copy);
  }

  async #copyAlone(from: number, end: number): Promise<void> {
    for (let sector = from; sector < end; ) {
      const failure = this.#top.failure();
      if (failure !== undefined) throw failure;
      // Clients may have written here meanwhile.
      const { until, depth, source } = await this.#top.knownRun(sector, end);
      if (depth === 1) {
        const length = (until - sector) * SECTOR;
        for await (const extent of source.device.extents(source.offset + sector * SECTOR, length)) {
          const offset = extent.offset - source.offset;
          if (extent.kind !== "data") await this.#top.writeZeroes(offset, extent.length);
          else {
            const bytes = Buffer.allocUnsafe(extent.length);
            await source.device.read(extent.offset, bytes);
            await this.#top.write(offset, bytes);
          }
        }
      }
      sector = until;
    }
  }
}
