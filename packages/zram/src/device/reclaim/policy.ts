/**
 * What the disk does without being told: pages that nobody has used for a while are compressed again, and after another
 * while written back, so much a day.
 *
 * Invariants:
 *
 * - one round at a time, and none while the disk is suspended or closed;
 * - a page that does not become smaller is tried again only when it has been used since, or the round was ended: each
 *   round takes the pages that have come of age since the last one;
 * - what a round could not do is tried in the next one; why not is logged once, until a round goes well.
 */
import { type Timer, toBlockIoError } from "@dmkit/block-io";
import { MAX_AGE } from "../../core/page-table.ts";
import { PAGE } from "../../core/size-classes.ts";
import { secondariesOf } from "../algorithms.ts";
import type { PolicySettings, RunningDisk } from "../disk.ts";
import { recompress } from "./recompress.ts";
import { everything } from "./selection.ts";
import { writeBack } from "./write-back.ts";

const DAY = 86_400_000;
// Seconds between two rounds: a quarter of the shortest age. Ages are known to 8 s, and rounded down by as much.
const ROUND = { shortest: 8, longest: 600 };
const BLUR = 16;

export class Policy {
  settings: PolicySettings;
  readonly #disk: RunningDisk;
  #timer: Timer | undefined;
  #end: AbortController | undefined;
  #running: Promise<void> | undefined;
  #told = false;
  /** When the last whole round began; milliseconds. */
  #lastRound: number | undefined;
  /** When the day began of which bytes are counted, and the blocks that had been written by then. */
  #day: { readonly from: number; readonly blocks: number } | undefined;

  constructor(disk: RunningDisk, settings: PolicySettings) {
    this.#disk = disk;
    this.settings = settings;
  }

  set(changes: Partial<PolicySettings>): void {
    this.settings = { ...this.settings, ...changes };
    this.#lastRound = undefined;
    if (this.#end !== undefined) this.#plan();
  }

  start(): void {
    this.#end = new AbortController();
    this.#plan();
  }

  /** Ends the round that is under way. */
  async stop(): Promise<void> {
    this.#timer?.cancel();
    this.#end?.abort();
    this.#end = undefined;
    await this.#running;
  }

  #plan(): void {
    this.#timer?.cancel();
    const { recompress_after: first, writeback_after: second } = this.settings;
    const ages = [first, second].filter((age) => age > 0);
    if (ages.length === 0 || this.#running !== undefined) return;
    const pause = Math.min(ROUND.longest, Math.max(ROUND.shortest, Math.min(...ages) / 4));
    this.#timer = this.#disk.parts.environment.clock.after(pause * 1000, () => {
      this.#running = this.#round().finally(() => {
        this.#running = undefined;
        if (this.#end !== undefined) this.#plan();
      });
    });
  }

  async #round(): Promise<void> {
    const { environment, pages, algorithms, backing } = this.#disk.parts;
    const { recompress_after: first, writeback_after: second } = this.settings;
    const signal = this.#end?.signal;
    const now = environment.clock.now();
    const since = (now - (this.#lastRound ?? Number.NEGATIVE_INFINITY)) / 1000;
    pages.table.time = now;
    try {
      if (first > 0 && secondariesOf(algorithms).length > 0) {
        const oldest = first + since + BLUR;
        const younger = oldest > MAX_AGE ? 0 : oldest;
        await recompress(this.#disk, { ...everything, unused: first, younger }, { signal });
      }
      if (second > 0 && backing !== undefined)
        await writeBack(
          this.#disk,
          { ...everything, unused: second, most: this.#blocksLeft(now) },
          { signal },
        );
      this.#lastRound = now;
      this.#told = false;
    } catch (error) {
      if (signal?.aborted === true) return;
      const { name } = this.#disk;
      const { message, code } = toBlockIoError(error, { device: name, op: "message" });
      if (!this.#told)
        environment.logger.log("warn", "pages could not be reclaimed", { device: name, code, message });
      this.#told = true;
    }
  }

  /** How many blocks may still be written to the backing device today. */
  #blocksLeft(now: number): number {
    const { backingWrites } = this.#disk;
    if (this.#day === undefined || now - this.#day.from >= DAY)
      this.#day = { from: now, blocks: backingWrites };
    const { writeback_daily: bytes } = this.settings;
    return bytes === 0
      ? Number.POSITIVE_INFINITY
      : Math.floor(bytes / PAGE) - (backingWrites - this.#day.blocks);
  }
}
