/**
 * The persistent log of type 1: the writes of the newest segments, in the order they were accepted, so that a
 * barrier need not close the segment, nor wait for the one before it.
 *
 * Records are gathered in RAM; a barrier writes what it does not find on the device yet, in one piece a segment,
 * and flushes once. A segment that is durable on the cache device before any barrier asks for it never reaches
 * the plog.
 *
 * Invariants:
 *
 * - a write that finds no space, or a flush that fails without a loss, fails that barrier, and the next one writes
 *   the same again; any other failure ends the cache;
 * - after a barrier, every accepted write is durable either in its segment on the cache device or in the plog,
 *   and the segments in the plog follow those on the cache device without a gap;
 * - at most two segments need the plog: the one that is open, and the one before it while it is on its way to
 *   the cache device. All others are durable there before a barrier writes anything;
 * - a segment that takes the last slot, of blocks that are logged again (bad-blocks.ts), never reaches the plog: half of
 *   its records would make a ring that is full, and has no room for the other half;
 * - a plog segment is used again only when the segment it belonged to is durable on the cache device;
 * - what lies behind the records of a plog segment is never taken for one more. It is zero at first; later it is
 *   what an earlier segment left: records, whose ids are too small, and user data. Where a sector of that could
 *   pass for a record of a later segment, the plog segment is blanked, durably, before it is used again. (Blanking
 *   all of them took a sixth of the writes with flush at depth 8: 12.4k against 10.2k a second.)
 * - where the name of the plog is in its first sector (plog-place.ts), that sector is never written without it.
 */
import { type BlockDevice, done, isOutOfSpace, toBlockIoError, isLossless, join } from "@dmkit/block-io";
import { type Geometry, plogSegmentSize } from "../../format/geometry.ts";
import { encodeRecord, recordSize } from "../../format/plog.ts";
import { START_NAME, emptyStart } from "./plog-place.ts";
import { outOfSpace } from "../refusals.ts";
import type { SegmentLog } from "./segment-log.ts";

// The open segment, the one before it, and one that is being blanked.
export const SEGMENTS_FOR_TWO = 3;

/** The records of one segment. */
interface Image {
  readonly id: number;
  readonly bytes: Buffer;
  appended: number;
  /** What of it is durable in the plog. */
  written: number;
  /** Some of its data could pass for a record of a later segment. */
  misleading: boolean;
  /** A barrier is writing it, or about to. */
  isInUse: boolean;
}

/** What a plog segment holds. */
interface Use {
  /** Of the records it was last written for. */
  readonly id: number;
  /** From its start; all behind is zero. */
  readonly bytes: number;
  readonly misleading: boolean;
}

export class PlogWriter {
  readonly #device: BlockDevice;
  readonly #log: SegmentLog;
  readonly #segments: number;
  readonly #size: number;
  readonly #name: Buffer | undefined;
  // Buffers that nobody uses; there are never more than four in all.
  readonly #idle: Buffer[] = [];
  #buffers = 0;
  #newest: Image | undefined;
  /** Of the segment before the newest one. */
  #before: Image | undefined;
  #zeroes: Buffer | undefined;
  /** The last segment for which a flush of the cache device was started ahead of need. */
  #hurried = 0;
  /** By plog segment, without those that are zero. */
  readonly #used: Map<number, Use> = new Map();

  /**
   * @param segments P; all plog segments on the device are zero, but for the name.
   * @param name the one that is in the first sector.
   */
  constructor(
    device: BlockDevice,
    geometry: Geometry,
    { segments, name, log }: { segments: number; name: Buffer | undefined; log: SegmentLog },
  ) {
    this.#device = device;
    this.#log = log;
    this.#segments = segments;
    this.#name = name;
    this.#size = plogSegmentSize(geometry.order);
  }

  /** Bytes of RAM. */
  get bufferBytes(): number {
    return this.#size * (this.#buffers + (this.#zeroes === undefined ? 0 : 1));
  }

  /** Whether there are records of the segment that is open: what it holds is in the plog, or will be. */
  get isRecording(): boolean {
    return this.#log.open && this.#newest?.id === this.#log.opened;
  }

  /** Whether the segment that is open can take another `bytes`, records included. */
  fits(bytes: number): boolean {
    const { open, count } = this.#log;
    if (this.isRecording) return bytes <= this.#size - (this.#newest as Image).appended;
    // What it holds without a record can have none behind it.
    return open && count === 0;
  }

  /** Appends `data`, at most the rest of one block, as a write to `sector`; it must fit. */
  append(sector: number, index: number, data: Buffer): void {
    const { opened } = this.#log;
    const image = this.#newest?.id === opened ? this.#newest : this.#begin(opened);
    encodeRecord(image.bytes, image.appended, opened, sector, index, data);
    if (image.appended === 0 && (opened - 1) % this.#segments === 0)
      this.#name?.copy(image.bytes, START_NAME);
    image.misleading ||= this.#log.rules.resemblesRecord(data, opened);
    image.appended += recordSize(data.length);
  }

  /** Makes everything accepted so far durable, here or on the cache device. */
  async commit(): Promise<void> {
    const log = this.#log;
    const images = this.#needed();
    const ends = images.map(({ appended }) => appended);
    for (const image of images) image.isInUse = true;
    try {
      // Fast as a rule: the flush of these was started by an earlier barrier.
      await log.makeDurable(images[0] === undefined ? this.#lastWithContents() : images[0].id - 1);
      log.check();
      await this.#write(images, ends);
    } finally {
      for (const image of images) this.#release(image);
    }
  }

  /**
   * Zeroes, durably, what was written; everything must be durable on the cache device. For drivers that believe a
   * plog whatever the log says: ours lacks the records that no barrier had asked for.
   */
  async clear(): Promise<void> {
    await this.#blankDurably([...this.#used.keys()], () => this.#device.flush());
  }

  /** A flush that fails is the end, unless it says that nothing is lost: what it was to make durable may be gone. */
  async #flush(): Promise<void> {
    try {
      await this.#device.flush();
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.#device.name, op: "flush" });
      throw failure.lossless ? failure : this.#log.die(failure);
    }
  }

  /** The newest segment that anything was written to. */
  #lastWithContents(): number {
    const { open, opened } = this.#log;
    return open && this.#newest?.id !== opened ? opened - 1 : opened;
  }

  /** The segments that a barrier has to find in the plog, in the order of their ids. */
  #needed(): Image[] {
    const { durable, open } = this.#log;
    const last = this.#lastWithContents();
    if (this.#segments >= SEGMENTS_FOR_TWO) {
      const both = [this.#before, this.#newest].filter(
        (image) => image !== undefined && image.id > durable && image.id <= last,
      ) as Image[];
      if (both.at(-1)?.id !== last) return [];
      // Not across a segment without records: that has to reach the cache device first.
      return both.filter(({ id }, index) => id === last - both.length + 1 + index);
    }
    // With fewer only the open segment; what is closed has to reach the cache device.
    return this.#newest !== undefined && this.#newest.id === last && open ? [this.#newest] : [];
  }

  async #write(images: readonly Image[], ends: readonly number[]): Promise<void> {
    const log = this.#log;
    this.#hurry();
    // What has reached the cache device meanwhile, whole, needs no records.
    const live = images.filter(({ id }) => id > log.durable);
    const missing = live.filter((image) => (ends[images.indexOf(image)] as number) > image.written);
    if (missing.length === 0) return;
    try {
      const ids = new Set(live.map(({ id }) => id));
      await this.#makeRoom(ids);
      const stale = this.#misleading(ids);
      const writing = missing.map((image) => this.#writeTail(image, ends[images.indexOf(image)] as number));
      const blanking = stale.map((segment) => this.#blank(segment));
      const requests = [...writing, ...blanking];
      if (requests.some((request) => request !== done)) await join(requests);
      await this.#flush();
      for (const segment of stale) this.#used.delete(segment);
    } catch (error) {
      if (isLossless(error)) throw error;
      if (isOutOfSpace(error)) throw outOfSpace(error, this.#device.name);
      throw log.die(error);
    }
    for (const image of missing) image.written = ends[images.indexOf(image)] as number;
  }

  /** The segment before the open one is on its way: makes it durable without anybody waiting for it. */
  #hurry(): void {
    const log = this.#log;
    if (log.lastFlushed <= Math.max(log.durable, this.#hurried)) return;
    this.#hurried = log.lastFlushed;
    // Whoever needs it learns from the log that it failed.
    log.flushCache().catch(() => {});
  }

  /** Blanks, durably, what these segments must not use as it is; as a rule that was done in passing. */
  async #makeRoom(ids: ReadonlySet<number>): Promise<void> {
    const segments = new Set([...ids].map((id) => (id - 1) % this.#segments));
    const stale = this.#misleading(ids).filter((segment) => segments.has(segment));
    await this.#blankDurably(stale, () => this.#flush());
  }

  async #blankDurably(segments: readonly number[], flush: () => Promise<void>): Promise<void> {
    if (segments.length === 0) return;
    await join(segments.map((segment) => this.#blank(segment)));
    await flush();
    for (const segment of segments) this.#used.delete(segment);
  }

  /** Plog segments of other ids than these whose contents must not lie behind the records of a later one. */
  #misleading(live: ReadonlySet<number>): number[] {
    const found: number[] = [];
    for (const [segment, { id, misleading }] of this.#used)
      if (misleading && !live.has(id)) found.push(segment);
    return found;
  }

  #writeTail({ id, bytes, written, misleading }: Image, end: number): Promise<void> {
    const segment = (id - 1) % this.#segments;
    const before = this.#used.get(segment);
    if (before !== undefined && before.id !== id) this.#mayOverwrite(segment, before);
    // Of what an earlier segment left, the end may still be there.
    this.#used.set(segment, { id, bytes: Math.max(end, before?.bytes ?? 0), misleading });
    return this.#device.write(segment * this.#size + written, bytes.subarray(written, end));
  }

  #mayOverwrite(segment: number, { id }: Use): void {
    if (id > this.#log.durable) throw new Error(`plog segment ${segment} still holds segment ${id}`);
  }

  /**
   * Zeroes as data: a file system that is asked to zero a range forgets that it is allocated, and must then
   * commit its journal in every barrier.
   */
  #blank(segment: number): Promise<void> {
    const use = this.#used.get(segment) as Use;
    this.#mayOverwrite(segment, use);
    this.#zeroes ??= Buffer.alloc(this.#size);
    if (segment > 0 || this.#name === undefined)
      return this.#device.write(segment * this.#size, this.#zeroes.subarray(0, use.bytes));
    const start = emptyStart(this.#name);
    const rest = this.#zeroes.subarray(start.length, use.bytes);
    return join([this.#device.write(0, start), this.#device.write(start.length, rest)]);
  }

  #begin(id: number): Image {
    const old = this.#before;
    this.#before = this.#newest;
    const bytes = this.#idle.pop() ?? this.#newBuffer();
    this.#newest = { id, bytes, appended: 0, written: 0, misleading: false, isInUse: false };
    if (old !== undefined && !old.isInUse) this.#idle.push(old.bytes);
    return this.#newest;
  }

  #newBuffer(): Buffer {
    this.#buffers += 1;
    return Buffer.alloc(this.#size);
  }

  /** A barrier is through with it. */
  #release(image: Image): void {
    image.isInUse = false;
    if (image !== this.#newest && image !== this.#before) this.#idle.push(image.bytes);
  }
}
