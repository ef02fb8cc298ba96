/**
 * Gives back what the cache device has of segments that have been written back, where that is wanted: their data is
 * discarded, and reads of it go to the backing device.
 *
 * Of such a segment the head stays, as that of an empty segment (length 0): the run of ids by which the log is known has no
 * gap, no checksum covers what is gone, and every program that reads the device finds a log. One sector changes, so a
 * crash leaves the one or the other.
 *
 * Invariants:
 *
 * - only what the superblock record covers, durably, is emptied: so no view is offered that would lack it;
 * - a segment is emptied only when all older ones are empty, or gone, durably, and none of those that are emptied at the
 *   same time has a block of it (core/emptying.ts): else an older copy would come to light;
 * - data is discarded when the empty head is durable, and the map has forgotten it;
 * - no segment is opened in the slot of one that is being emptied (`SegmentLog.held`).
 */
import { BlockIoError, type Environment, type Timer, giveBack, inParallel, isOfPlace } from "@dmkit/block-io";
import type { Statistics } from "../../core/statistics.ts";
import { BLOCK, slotOf, slotStart } from "../../format/geometry.ts";
import { decodeSegmentHeader, emptySegment } from "../../format/segment.ts";
import { readHead } from "../log/read-slot.ts";
import type { SegmentLog } from "../log/segment-log.ts";
import type { Parts } from "../parts.ts";
import type { Recorder } from "../recorder.ts";
import { costsNothing } from "../refusals.ts";

// Segments emptied by one flush at most, and requests at once.
const MOST = 32;
const DEPTH = 8;
// Milliseconds until it looks again by itself.
const LATER = 1000;

export class Discarder {
  readonly #log: SegmentLog;
  readonly #statistics: Statistics;
  readonly #recorder: Recorder;
  readonly #environment: Environment;
  #isOn = false;
  #isStopped = true;
  #running: Promise<void> | undefined;
  #later: Timer | undefined;
  /** All segments up to here are empty, durably. */
  #emptied: number;
  /** What was logged last, so that trying again every second does not fill the log. */
  #told: string | undefined;

  constructor({ log, statistics }: Parts, recorder: Recorder, environment: Environment) {
    this.#log = log;
    this.#statistics = statistics;
    this.#recorder = recorder;
    this.#environment = environment;
    this.#emptied = this.#gone;
  }

  set isOn(isOn: boolean) {
    this.#isOn = isOn;
    this.kick();
  }

  start(): void {
    this.#isStopped = false;
    this.kick();
  }

  /** Waits for what is under way, and begins nothing any more. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#later?.cancel();
    this.#later = undefined;
    await this.#running;
  }

  /** Begins, if there is anything to do. */
  kick(): void {
    if (this.#running !== undefined || !this.#isDue) return;
    this.#running = this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  get #isDue(): boolean {
    const { dead, lastWriteback } = this.#log;
    return (
      this.#isOn &&
      !this.#isStopped &&
      dead === undefined &&
      lastWriteback > Math.max(this.#emptied, this.#gone)
    );
  }

  /** The newest segment whose slot is in use again. */
  get #gone(): number {
    return Math.max(0, this.#log.opened - this.#log.geometry.slots);
  }

  async #run(): Promise<void> {
    try {
      while (this.#isDue) {
        await this.#recorder.record();
        const ids = this.#next();
        if (ids.length === 0) break;
        await this.#empty(ids);
      }
      this.#told = undefined;
    } catch (error) {
      const text = String(error);
      if (this.#told !== text)
        this.#environment.logger.log("warn", "free segments are not discarded for now", { error: text });
      this.#told = text;
    }
    if (this.#isDue) this.#lookLater();
  }

  /** Those to be emptied now. */
  #next(): number[] {
    const { map, geometry, rules, durable, opened, lastFlushed } = this.#log;
    if (!this.#isDue) return [];
    if (this.#emptied < this.#gone) {
      // Writers were faster. What they wrote over could come back.
      if (durable < opened) return [];
      this.#emptied = this.#gone;
    }
    const last = rules.emptiedUpTo(this.#recorder.recorded, lastFlushed);
    while (this.#emptied < last && map.lengths[slotOf(geometry, this.#emptied + 1)] === 0) this.#emptied += 1;
    const count = Math.max(0, Math.min(MOST, last - this.#emptied));
    const ids = Array.from({ length: count }, (_, index) => this.#emptied + 1 + index);
    const slots = ids.map((id) => slotOf(geometry, id));
    return ids.slice(0, rules.emptyTogether(map, slots));
  }

  async #empty(ids: readonly number[]): Promise<void> {
    const log = this.#log;
    const { geometry, map, cache, rules } = log;
    log.held = ids[0] as number;
    try {
      await inParallel(ids, DEPTH, (id) => this.#emptyHead(id));
      if (rules.emptiesDurably) await log.flushCache();
      for (const id of ids) map.evict(slotOf(geometry, id));
      this.#emptied = ids.at(-1) as number;
      const length = geometry.slotSize - BLOCK;
      await inParallel(ids, DEPTH, (id) =>
        giveBack(cache, slotStart(geometry, slotOf(geometry, id)) + BLOCK, length),
      );
      this.#statistics.discardedBytes += ids.length * length;
    } finally {
      log.held = Number.POSITIVE_INFINITY;
      log.changed.notify();
    }
  }

  async #emptyHead(id: number): Promise<void> {
    const { cache, geometry, dialect } = this.#log;
    const offset = slotStart(geometry, slotOf(geometry, id));
    const head = Buffer.alloc(BLOCK);
    await readHead(cache, offset, head).catch((error: unknown) => {
      throw isOfPlace(error) ? error : this.#log.die(error);
    });
    if (decodeSegmentHeader(head).id !== id) {
      const of = { device: cache.name, op: "read", offset, length: BLOCK } as const;
      throw new BlockIoError(`segment ${id} is damaged on the cache device`, { code: "EIO", ...of });
    }
    emptySegment(dialect, head, id);
    try {
      await cache.write(offset, head.subarray(0, cache.limits.logicalBlockSize));
    } catch (error) {
      throw costsNothing(error) ? error : this.#log.die(error);
    }
  }

  /** Something failed, or waits for what nobody may ever make durable: an open segment. */
  #lookLater(): void {
    const { opened } = this.#log;
    this.#later ??= this.#environment.clock.after(LATER, () => {
      this.#later = undefined;
      const log = this.#log;
      // While clients write it becomes so by itself.
      if (this.#emptied < this.#gone && log.opened === opened && this.#running === undefined && this.#isDue) {
        log.close();
        this.#running = log.makeDurable(log.newestClosed).then(
          () => this.#goOn(),
          () => this.#goOn(),
        );
      } else this.kick();
    });
  }

  #goOn(): void {
    this.#running = undefined;
    this.kick();
  }
}
