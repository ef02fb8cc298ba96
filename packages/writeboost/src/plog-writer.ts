/**
 * The persistent log of type 1: the writes of the open segment, in the order they were accepted, so that a
 * barrier need not close the segment.
 *
 * Records are gathered in RAM; a barrier writes what it does not find on the device yet, in one piece. A
 * segment that is closed before any barrier asks for it never reaches the plog.
 *
 * Invariants:
 *
 * - a plog segment of id X is written only when all segments before X are durable on the cache device. So at
 *   any time at most one plog segment matters, and the one it replaces does not;
 * - what lies behind the records of a plog segment is durably zero: a segment is zeroed after use, and that is
 *   flushed before it is used again. Stale records and user data are therefore never read as records.
 */
import { type BlockDevice, done } from "@dmkit/block-io";
import { type Geometry, plogSegmentSize } from "./format/geometry.ts";
import { encodeRecord, recordSize } from "./format/plog.ts";
import type { SegmentLog } from "./segment-log.ts";

export class PlogWriter {
  readonly #device: BlockDevice;
  readonly #log: SegmentLog;
  readonly #segments: number;
  readonly #size: number;
  // Images that nobody uses; there are never more than two in all.
  readonly #idle: Buffer[] = [];
  #image: Buffer;
  /** The segment the image belongs to. */
  #id = 0;
  #appended = 0;
  #written = 0;
  #inUse: Buffer | undefined;
  #zeroes: Buffer | undefined;
  /** Bytes written to each plog segment since it was zeroed, and for which id. */
  readonly #used: Map<number, { id: number; bytes: number }> = new Map();

  /** @param segments P; all plog segments on the device are zero. */
  constructor(device: BlockDevice, geometry: Geometry, segments: number, log: SegmentLog) {
    this.#device = device;
    this.#log = log;
    this.#segments = segments;
    this.#size = plogSegmentSize(geometry.order);
    this.#image = Buffer.alloc(this.#size);
  }

  /** Bytes of RAM. */
  get bufferBytes(): number {
    const buffers = [this.#inUse, this.#zeroes].filter((buffer) => buffer !== undefined);
    return this.#size * (1 + this.#idle.length + buffers.length);
  }

  /** Whether the segment that is open can take another `bytes`, records included. */
  fits(bytes: number): boolean {
    return this.#log.open && bytes <= this.#size - (this.#id === this.#log.opened ? this.#appended : 0);
  }

  /** Appends `data`, at most the rest of one block, as a write to `sector`; it must fit. */
  append(sector: number, index: number, data: Buffer): void {
    if (this.#id !== this.#log.opened) this.#begin(this.#log.opened);
    encodeRecord(this.#image, this.#appended, this.#id, sector, index, data);
    this.#appended += recordSize(data.length);
  }

  /** Makes everything accepted so far durable, here or on the cache device. */
  async commit(): Promise<void> {
    const log = this.#log;
    const { opened } = log;
    const image = this.#image;
    const end = this.#appended;
    if (!log.open) return log.makeDurable(opened);
    // Open, but nothing is in it yet.
    if (this.#id !== opened) return log.makeDurable(opened - 1);
    await log.makeDurable(opened - 1);
    // It may have been closed by now; then the segment itself is on its way.
    if (!log.open || log.opened !== opened) return log.makeDurable(opened);
    log.check();
    if (end <= this.#written) return;
    this.#inUse = image;
    try {
      await this.#writeTail(image, opened, this.#written, end);
    } catch (error) {
      throw log.die(error);
    } finally {
      this.#inUse = undefined;
      if (image !== this.#image) this.#idle.push(image);
    }
    if (this.#id === opened) this.#written = end;
  }

  #begin(id: number): void {
    this.#id = id;
    this.#appended = 0;
    this.#written = 0;
    if (this.#inUse === this.#image) this.#image = this.#idle.pop() ?? Buffer.alloc(this.#size);
  }

  /**
   * Zeroes as data: a file system that is asked to zero a range forgets that it is allocated, and must then
   * commit its journal in every barrier.
   */
  #blank(bytes: number): Buffer {
    this.#zeroes ??= Buffer.alloc(this.#size);
    return this.#zeroes.subarray(0, bytes);
  }

  async #writeTail(image: Buffer, id: number, from: number, to: number): Promise<void> {
    const device = this.#device;
    const segment = (id - 1) % this.#segments;
    const before = this.#used.get(segment);
    if (before !== undefined && before.id !== id) {
      // Only where there is a single plog segment: the others have been zeroed by then.
      await device.write(segment * this.#size, this.#blank(before.bytes));
      await device.flush();
    }
    this.#used.set(segment, { id, bytes: to });
    const stale = [...this.#used].filter(([, { id: other }]) => other !== id);
    const writing = device.write(segment * this.#size + from, image.subarray(from, to));
    const zeroing = stale.map(([other, { bytes }]) => device.write(other * this.#size, this.#blank(bytes)));
    if (writing !== done || zeroing.length > 0) await settled([writing, ...zeroing]);
    await device.flush();
    for (const [other] of stale) this.#used.delete(other);
  }
}

/** Waits for all, so that no request is left in flight behind an error. */
async function settled(promises: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(promises))
    if (result.status === "rejected") throw result.reason;
}
