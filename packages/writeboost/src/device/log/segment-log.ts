/**
 * The log: RAM buffers that are filled, the flusher that writes them to the cache device, and what is durable there.
 *
 *      lastWriteback ≤ durable ≤ lastFlushed < … closed, queued … ≤ opened
 *
 * Invariants:
 *
 * - segment X is opened only when X - N has been written back durably, is in the archive if there is one, and the RAM
 *   buffer of X - pool has been flushed; opening X forgets the blocks of X - N. For clients, X + 1 - N as well: one slot
 *   is kept, so that what the backing device does not take can be logged again in a full ring (writeback.ts);
 * - segment X is written only while X - K ≤ durable (core/log.ts needs that to find the log after a crash);
 * - `lastFlushed` counts in id order whatever the order of completion; `durable` is what was flushed when a
 *   flush of the cache device that succeeded was issued;
 * - a closed segment never changes;
 * - a segment that finds no space below the cache device stays in RAM and is written again: when somebody waits
 *   for it, and now and then. Nothing about it is durable until that succeeds. So is a flush that failed without a loss;
 * - any other write or flush of the cache device that fails is the end: see {@link SegmentLog.die}.
 */
import {
  type BlockDevice,
  type BlockIoError,
  FlushGroup,
  Signal,
  done,
  isOutOfSpace,
  toBlockIoError,
} from "@dmkit/block-io";
import type { BlockMap } from "../../core/block-map.ts";
import { EvictedBlocks } from "../../core/evicted.ts";
import { type Rules, rules as ours } from "../../core/rules.ts";
import type { Dialect } from "../../format/checksum.ts";
import { BLOCK, type Geometry, slotOf, slotStart } from "../../format/geometry.ts";
import { dataStart, sealSegment, segmentSize } from "../../format/segment.ts";
import type { LogStart } from "../recovered.ts";
import { outOfSpace, stopped } from "../refusals.ts";
import { ArchiveState } from "./archive-state.ts";
import { Refusals } from "./refusals.ts";

export class SegmentLog {
  readonly geometry: Geometry;
  readonly dialect: Dialect;
  readonly cache: BlockDevice;
  readonly map: BlockMap;
  readonly pool: number;
  readonly rules: Rules;
  /** Anything below changed. */
  readonly changed: Signal = new Signal();
  /** Called when `lastFlushed` or `durable` moved. */
  onProgress: () => void = () => {};
  readonly archived: ArchiveState = new ArchiveState();
  /** Segments from here on are being emptied: none is opened in their slots. */
  held: number = Number.POSITIVE_INFINITY;
  #opened: number;
  #open = false;
  #lastFlushed: number;
  #durable: number;
  #lastWriteback: number;
  #dead: BlockIoError | undefined;
  /** Called when {@link full} or {@link dead} has been set. */
  onTrouble: (error: BlockIoError) => void = () => {};

  readonly #buffers: Buffer[];
  /** Ids below are not in RAM although the arithmetic of buffers would say so. */
  readonly #firstInRam: number;
  readonly #lengths: Map<number, number> = new Map();
  readonly #written: Set<number> = new Set();
  readonly #refusals: Refusals = new Refusals();
  #started: number;
  readonly #evicted: EvictedBlocks = new EvictedBlocks();
  readonly #flushes: FlushGroup;

  constructor(
    cache: BlockDevice,
    { geometry, dialect, map, last, lastWriteback }: LogStart,
    pool: number,
    rules: Rules = ours,
  ) {
    this.rules = rules;
    this.geometry = geometry;
    this.dialect = dialect;
    this.cache = cache;
    this.map = map;
    this.pool = pool;
    this.#opened = last;
    this.#lastFlushed = last;
    this.#durable = last;
    this.#lastWriteback = lastWriteback;
    this.#firstInRam = last + 1;
    this.#started = last;
    this.#buffers = Array.from({ length: pool }, () => Buffer.alloc(segmentSize(geometry.blocks)));
    this.#flushes = new FlushGroup(() => this.#flushCache());
  }

  /** The newest segment: open, or the last that was. */
  get opened(): number {
    return this.#opened;
  }

  /** Whether {@link opened} still takes blocks. */
  get open(): boolean {
    return this.#open;
  }

  /** The newest segment that takes no more blocks. */
  get newestClosed(): number {
    return this.#open ? this.#opened - 1 : this.#opened;
  }

  get lastFlushed(): number {
    return this.#lastFlushed;
  }

  get durable(): number {
    return this.#durable;
  }

  get lastWriteback(): number {
    return this.#lastWriteback;
  }

  /** Why the cache is dead, if it is. */
  get dead(): BlockIoError | undefined {
    return this.#dead;
  }

  /** Why segments stay in RAM, or are not durable, if there is no space for them. */
  get full(): BlockIoError | undefined {
    return this.#refusals.error;
  }

  /** Blocks in the open segment. */
  get count(): number {
    return this.open ? (this.map.lengths[slotOf(this.geometry, this.opened)] as number) : 0;
  }

  /** The segment a slot holds, as far as the map is concerned; not positive for a slot never used. */
  idOf(slot: number): number {
    if (this.opened === 0) return 0;
    const { slots } = this.geometry;
    return this.opened - ((slotOf(this.geometry, this.opened) - slot + slots) % slots);
  }

  idOfBlock(index: number): number {
    return this.idOf(Math.floor(index / this.map.blocks));
  }

  /** Whether a cache block is in the open segment. */
  isOpen(index: number): boolean {
    return this.open && Math.floor(index / this.map.blocks) === slotOf(this.geometry, this.opened);
  }

  /** The data of a cache block if it is in RAM. */
  inRam(index: number): Buffer | undefined {
    const slot = Math.floor(index / this.map.blocks);
    const id = this.idOf(slot);
    if (id < this.#firstInRam || id <= this.opened - this.pool) return undefined;
    const start = dataStart(index - slot * this.map.blocks);
    return this.bufferOf(id).subarray(start, start + BLOCK);
  }

  bufferOf(id: number): Buffer {
    return this.#buffers[(id - 1) % this.pool] as Buffer;
  }

  /** The segment that must be written back before clients can open another; not positive if there is none. */
  get neededWriteback(): number {
    return this.opened + 2 - this.geometry.slots;
  }

  /** Whether the next segment can be opened now. @param kept number of slots that have to stay free. */
  canOpen(kept = 1): boolean {
    const old = this.opened + 1 + kept - this.geometry.slots;
    if (this.lastFlushed < this.neededFlush || old - kept >= this.held) return false;
    return this.rules.mayReuse(old, Math.min(this.lastWriteback, this.archived.last), this.lastFlushed);
  }

  /** The segment whose RAM buffer the next one will use. */
  get neededFlush(): number {
    return this.opened + 1 - this.pool;
  }

  /** Makes room for a block: false if somebody has to wait for it. @param kept as for {@link canOpen}. */
  room(kept = 1): boolean {
    if (this.open && this.count < this.geometry.blocks) return true;
    if (this.open) this.close();
    if (this.dead !== undefined || !this.canOpen(kept)) return false;
    this.#openNext();
    return true;
  }

  /** Chooses the id of the next segment, and with it the slot, of which the old blocks are forgotten. */
  #openNext(): void {
    this.#opened += 1;
    this.#open = true;
    this.archived.onOpened(this.#opened);
    const slot = slotOf(this.geometry, this.#opened);
    if (this.map.lengths[slot] !== 0)
      this.#evicted.add(this.#opened - this.geometry.slots, this.map.evict(slot));
  }

  /** As {@link BlockMap.append}, in the open segment: {@link room} must have said so. The data is for the caller to copy. */
  append(block: number, valid: number, dirty: number, previous: number): number {
    return this.map.append(slotOf(this.geometry, this.opened), block, valid, dirty, previous);
  }

  /** What segments up to `id` hold is durable elsewhere. */
  writtenBack(id: number): void {
    this.#lastWriteback = id;
    this.changed.notify();
  }

  /** Closes the open segment and hands it to the flusher; nothing happens if none is open or it is empty. */
  close(): void {
    const length = this.count;
    if (length === 0 || this.dead !== undefined) return;
    const buffer = this.bufferOf(this.opened);
    // v2 has a way to say "clean", and classic none: there all sectors in the log count as written.
    this.map.store(slotOf(this.geometry, this.opened), buffer, this.dialect === "v2" ? "dirty" : "valid");
    sealSegment(this.dialect, buffer, this.opened, length);
    this.#open = false;
    this.archived.onClosed(this.opened);
    this.#lengths.set(this.opened, length);
    this.#pump();
  }

  /** Resolves when everything up to segment `id` has been written to the cache device. Throws `ENOSPC`. */
  async flushed(id: number): Promise<void> {
    const { count } = this.#refusals;
    this.retry();
    while (this.lastFlushed < id) {
      this.check();
      if (this.#refusals.count !== count && this.full !== undefined) throw this.full;
      await this.changed.wait();
    }
  }

  /** Writes again what found no space, and flushes. */
  retry(): void {
    if (this.dead !== undefined) return;
    const [segments, flush] = this.#refusals.take();
    for (const id of segments) this.#write(id);
    if (flush) this.flushCache().catch(() => {});
  }

  /** Resolves when everything up to segment `id` is durable on the cache device. */
  async makeDurable(id: number): Promise<void> {
    await this.flushed(id);
    this.check();
    if (this.rules.needsFlush(id, this.durable)) await this.flushCache();
  }

  /** A flush of the cache device that is issued after this call. */
  flushCache(): Promise<void> {
    return this.#flushes.flush();
  }

  /** Throws if the cache is dead. */
  check(): void {
    if (this.dead !== undefined) throw this.dead;
  }

  /** The cache or plog device failed: nothing is acknowledged any more. Whoever waits is told. */
  die(error: unknown): BlockIoError {
    if (this.dead === undefined) {
      this.#dead = stopped(error, this.cache.name);
      this.onTrouble(this.#dead);
    }
    this.changed.notify();
    return this.#dead as BlockIoError;
  }

  /** For good, and not for a fault of the devices: everybody is told `error`. */
  end(error: BlockIoError): void {
    this.#dead ??= error;
    this.changed.notify();
  }

  /** Whether a crash could bring back a copy of `block` that is not in the map any more. */
  mayComeBack(block: number): boolean {
    return this.#evicted.has(block);
  }

  #pump(): void {
    while (this.#lengths.has(this.#started + 1) && this.dead === undefined) {
      if (!this.rules.mayWrite(this.#started + 1, this.durable, this.geometry.tail)) {
        // Behind it, so that it covers as much as there is: when it is done, pump again.
        if (this.lastFlushed === this.#started) this.flushCache().catch(() => {});
        return;
      }
      this.#started += 1;
      this.#write(this.#started);
    }
  }

  #write(id: number): void {
    const size = segmentSize(this.#lengths.get(id) as number);
    const start = slotStart(this.geometry, slotOf(this.geometry, id));
    const writing = this.cache.write(start, this.bufferOf(id).subarray(0, size));
    if (writing === done) this.#completed(id);
    else
      writing.then(
        () => this.#completed(id),
        (error: unknown) => this.#failed(id, error),
      );
  }

  #failed(id: number, error: unknown): void {
    if (isOutOfSpace(error)) this.#refused(id, outOfSpace(error, this.cache.name));
    else this.die(error);
  }

  #refused(what: number | "flush", error: BlockIoError): void {
    if (this.#refusals.add(what, error)) this.onTrouble(error);
    this.changed.notify();
  }

  #completed(id: number): void {
    this.#written.add(id);
    this.#lengths.delete(id);
    while (this.#written.delete(this.lastFlushed + 1)) this.#lastFlushed += 1;
    this.#refusals.taken();
    // Ahead of need: a flush takes long, and the flusher need not stand still for it.
    if (this.lastFlushed - this.durable > this.geometry.tail / 2) this.flushCache().catch(() => {});
    this.#progress();
  }

  async #flushCache(): Promise<void> {
    this.check();
    const covered = this.lastFlushed;
    try {
      await this.cache.flush();
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.cache.name, op: "flush" });
      if (!failure.lossless) throw this.die(failure);
      this.#refused("flush", failure);
      throw failure;
    }
    this.#refusals.flushed();
    this.#durable = Math.max(this.durable, covered);
    this.#evicted.forget(this.durable - this.geometry.slots);
    this.#progress();
  }

  #progress(): void {
    this.#pump();
    this.changed.notify();
    this.onProgress();
  }
}
