/**
 * Blocks that the backing device does not take. A ring is written over in order, so one of them would stop all of
 * it: instead it is put into the log once more, as a dirty block of a newer segment, and is tried again from there.
 *
 * Invariants:
 *
 * - the segments that held it count as written back only when its newer copy is durable on the cache device;
 * - there is room for that in a full ring: clients leave one slot alone (segment-log.ts). The bad blocks of one
 *   segment fit into one; when they are durable there, the older segment's slot is the one that is left;
 * - after a crash the ring may be full to the last slot, of segments that had been written back: of the oldest, what
 *   the backing device has is let go.
 */
import { type BlockIoError, type Environment, toBlockIoError } from "@dmkit/block-io";
import type { Entry } from "../../core/writeback-plan.ts";
import { BLOCK } from "../../format/geometry.ts";
import type { SegmentLog } from "../log/segment-log.ts";
import type { BatchResult } from "./writeback-batch.ts";

// Milliseconds until bad blocks are tried again for their own sake: doubled each time, up to the second figure.
const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 64_000;

/** Puts the newest copy of a block, which is cache block `index`, into the log again; false: there is no room now. */
export type Relog = (index: number, data: Buffer) => boolean;

export class BadBlocks {
  readonly #log: SegmentLog;
  readonly #relog: Relog;
  readonly #environment: Environment;
  readonly #blocks: Set<number> = new Set();
  #pause = FIRST_PAUSE;
  #until = 0;
  /** The newest segment when the last of them were logged again. */
  #newest = 0;
  /** How often blocks have been logged again. */
  relogged = 0;
  lastError: BlockIoError | undefined;

  constructor(log: SegmentLog, relog: Relog, environment: Environment) {
    this.#log = log;
    this.#relog = relog;
    this.#environment = environment;
  }

  /** Known ones: the log has the only good copy of them. */
  get size(): number {
    return this.#blocks.size;
  }

  /** Whether there is nothing to write back but what has just been logged again, or little else. @param enough segments. */
  rests(enough: number): boolean {
    if (this.#environment.clock.now() >= this.#until) return false;
    return this.#log.lastFlushed - Math.max(this.#newest, this.#log.lastWriteback) < enough;
  }

  /** What of a batch has been written is not bad any more. */
  wrote(blocks: ReadonlyMap<number, unknown>): void {
    if (this.#blocks.size === 0) return;
    let healed = 0;
    for (const block of blocks.keys()) if (this.#blocks.delete(block)) healed += 1;
    if (healed === 0) return;
    this.#pause = FIRST_PAUSE;
    this.#environment.logger.log("info", "the backing device takes blocks again that it had refused", {
      blocks: healed,
      left: this.#blocks.size,
    });
  }

  /** Puts what was refused into the log again, and remembers it. See {@link logAgain}. */
  async keep(result: BatchResult, release: (id: number) => void): Promise<void> {
    const kept = await this.logAgain(result, release);
    if (kept.length > 0) this.#note(kept, result.error);
  }

  /**
   * Puts copies into the log again, oldest first, and makes them durable there; returns those whose newer copies are there
   * now. Throws the error where there is no room for something that the log alone has.
   * @param release called with segments up to which nothing is missing any more: their slots may be used.
   */
  async logAgain(
    { refused, error, isBelow }: Pick<BatchResult, "refused" | "error" | "isBelow">,
    release: (id: number) => void,
  ): Promise<readonly Entry[]> {
    /** The segment in which the newer copies are of all that was looked at, and up to which segment that was. */
    let needed = 0;
    const kept: Entry[] = [];
    for (const entry of refused) {
      for (;;) {
        const newest = this.#newestOf(entry);
        if (newest !== undefined) {
          needed = Math.max(needed, newest);
          kept.push(entry);
          break;
        }
        if (this.#relog(entry.index, entry.data)) continue;
        if (await isBelow(entry)) break;
        // Older segments first: their slots take the copies of the later ones.
        await this.#secure(needed);
        release(entry.id - 1);
        await this.#waitForRoom(error);
      }
    }
    await this.#secure(needed);
    return kept;
  }

  /** Makes everything up to segment `newest` durable on the cache device. */
  async #secure(newest: number): Promise<void> {
    const id = this.#log.rules.secured(newest);
    if (this.#log.open && this.#log.opened <= id) this.#log.close();
    await this.#log.makeDurable(id);
  }

  /** The segment that has a newer copy of the block, if any has. */
  #newestOf({ block, index }: Entry): number | undefined {
    const newest = this.#log.map.find(block);
    return newest === index || newest < 0 ? undefined : this.#log.idOfBlock(newest);
  }

  async #waitForRoom(error: BlockIoError | undefined): Promise<void> {
    const log = this.#log;
    log.check();
    // Clients may have opened a segment meanwhile: there is room in it, or it is closed for want of that. Nobody else need
    // ever close it.
    if (log.open || log.canOpen(0)) return;
    if (Number.isFinite(log.held)) return log.changed.wait();
    // A ring that older versions have filled to the last slot, and of something that the backing device never had.
    if (log.lastFlushed >= log.neededFlush) throw error;
    await log.flushed(log.neededFlush);
  }

  #note(kept: readonly Entry[], error: BlockIoError | undefined): void {
    const known = this.#blocks.size;
    for (const { block } of kept) this.#blocks.add(block);
    const first = kept[0] as Entry;
    this.relogged += 1;
    this.lastError = toBlockIoError(error, { device: this.#log.cache.name, op: "write" });
    this.#newest = this.#log.opened;
    this.#until = this.#environment.clock.now() + this.#pause;
    this.#pause = Math.min(LONGEST_PAUSE, this.#pause * 2);
    if (this.#blocks.size === known) return;
    this.#environment.logger.log(
      "error",
      "the backing device does not take some blocks; they stay in the cache, and everything else goes on",
      { blocks: this.#blocks.size, offset: first.block * BLOCK, error: this.lastError.message },
    );
  }
}
