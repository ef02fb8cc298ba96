/**
 * The log: RAM buffers that are filled, the flusher that writes them to the cache device, and what is known
 * to be durable there.
 *
 *      lastWriteback ≤ durable ≤ lastFlushed < … closed, queued … ≤ opened
 *
 * Invariants:
 *
 * - segment X is opened only when X - N has been written back durably and the RAM buffer of X - pool has been
 *   flushed; opening X forgets the blocks of X - N. For clients, X + 1 - N as well: one slot is kept back, so that
 *   what the backing device does not take can be logged again although the ring is full (writeback.ts);
 * - segment X is written only while X - K ≤ durable (core/log.ts needs that to find the log after a crash);
 * - `lastFlushed` counts in id order whatever the order of completion; `durable` is what was flushed when a
 *   flush of the cache device that succeeded was issued;
 * - a closed segment never changes;
 * - a segment that finds no space below the cache device stays in RAM and is written again: when somebody waits
 *   for it, and now and then. Nothing about it is durable until that succeeds;
 * - any other write of the cache device that fails is the end, and so is a flush: see {@link SegmentLog.die}.
 */
import {
  type BlockDevice,
  BlockIoError,
  FlushGroup,
  Signal,
  done,
  isOutOfSpace,
  toBlockIoError,
} from "@dmkit/block-io";
import type { BlockMap } from "../../core/block-map.ts";
import type { Dialect } from "../../format/checksum.ts";
import { BLOCK, type Geometry, slotOf, slotStart } from "../../format/geometry.ts";
import { dataStart, sealSegment, segmentSize, setMetablock } from "../../format/segment.ts";

/** Where a log goes on after recovery. */
export interface LogPosition {
  readonly last: number;
  readonly lastWriteback: number;
}

/** Blocks of a segment that was forgotten, but that a crash could still bring back. */
interface Ghost {
  readonly id: number;
  readonly keys: Float64Array;
}

export class SegmentLog {
  readonly geometry: Geometry;
  readonly dialect: Dialect;
  readonly cache: BlockDevice;
  readonly map: BlockMap;
  readonly pool: number;
  /** Anything below changed. */
  readonly changed: Signal = new Signal();
  /** Called when `lastFlushed` or `durable` moved. */
  onProgress: () => void = () => {};

  /** The newest segment: open, or the last that was. */
  opened: number;
  /** Whether {@link opened} still takes blocks. */
  open = false;
  lastFlushed: number;
  durable: number;
  lastWriteback: number;
  /** Why the cache is dead, if it is. */
  dead: BlockIoError | undefined;
  /** Why segments stay in RAM, if there is no space for them. */
  full: BlockIoError | undefined;
  /** Called when {@link full} or {@link dead} has been set. */
  onTrouble: (error: BlockIoError) => void = () => {};

  readonly #buffers: Buffer[];
  /** Ids below are not in RAM although the arithmetic of buffers would say so. */
  readonly #firstInRam: number;
  readonly #lengths: Map<number, number> = new Map();
  readonly #written: Set<number> = new Set();
  /** Closed segments whose last write found no space. */
  readonly #refused: Set<number> = new Set();
  /** How often that has happened. */
  #refusals = 0;
  #started: number;
  readonly #ghosts: Ghost[] = [];
  /** In how many ghosts each block is. */
  readonly #haunted: Map<number, number> = new Map();
  readonly #flushes: FlushGroup;

  constructor(
    geometry: Geometry,
    dialect: Dialect,
    cache: BlockDevice,
    map: BlockMap,
    pool: number,
    { last, lastWriteback }: LogPosition,
  ) {
    this.geometry = geometry;
    this.dialect = dialect;
    this.cache = cache;
    this.map = map;
    this.pool = pool;
    this.opened = last;
    this.lastFlushed = last;
    this.durable = last;
    this.lastWriteback = lastWriteback;
    this.#firstInRam = last + 1;
    this.#started = last;
    this.#buffers = Array.from({ length: pool }, () => Buffer.alloc(segmentSize(geometry.blocks)));
    this.#flushes = new FlushGroup(() => this.#flushCache());
  }

  /** Bytes of RAM the buffers take. */
  get bufferBytes(): number {
    return this.pool * segmentSize(this.geometry.blocks);
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

  /** Byte on the cache device where a cache block's data is. */
  dataOffset(index: number): number {
    const slot = Math.floor(index / this.map.blocks);
    return slotStart(this.geometry, slot) + dataStart(index - slot * this.map.blocks);
  }

  /** The segment that must be written back before clients can open another; not positive if there is none. */
  get neededWriteback(): number {
    return this.opened + 2 - this.geometry.slots;
  }

  /** Whether the next segment can be opened now. @param kept number of slots that have to stay free. */
  canOpen(kept = 1): boolean {
    const neededWriteback = this.opened + 1 + kept - this.geometry.slots;
    return this.lastFlushed >= this.neededFlush && this.lastWriteback >= neededWriteback;
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
    this.opened += 1;
    this.open = true;
    const slot = slotOf(this.geometry, this.opened);
    const old = this.opened - this.geometry.slots;
    if (this.map.lengths[slot] !== 0) this.#addGhost({ id: old, keys: this.map.evict(slot) });
    return true;
  }

  /** The next cache block of the open segment; {@link room} must have said there is one. */
  take(block: number): number {
    const { map } = this;
    const slot = slotOf(this.geometry, this.opened);
    const at = map.lengths[slot] as number;
    map.lengths[slot] = at + 1;
    const index = slot * map.blocks + at;
    map.keys[index] = block;
    return index;
  }

  /** Closes the open segment and hands it to the flusher; nothing happens if none is open or it is empty. */
  close(): void {
    const length = this.count;
    if (length === 0 || this.dead !== undefined) return;
    const { map, dialect } = this;
    const first = slotOf(this.geometry, this.opened) * map.blocks;
    const buffer = this.bufferOf(this.opened);
    for (let at = 0; at < length; at += 1) {
      // v2 has a way to say "clean", and classic none: there all sectors in the log count as written.
      const bits = (dialect === "v2" ? map.dirty[first + at] : map.valid[first + at]) as number;
      setMetablock(buffer, at, (map.keys[first + at] as number) * 8, bits);
    }
    sealSegment(dialect, buffer, this.opened, length);
    this.open = false;
    this.#lengths.set(this.opened, length);
    this.#pump();
  }

  /** Resolves when everything up to segment `id` has been written to the cache device. Throws `ENOSPC`. */
  async flushed(id: number): Promise<void> {
    const refusals = this.#refusals;
    this.retry();
    while (this.lastFlushed < id) {
      this.check();
      if (this.#refusals !== refusals && this.full !== undefined) throw this.full;
      await this.changed.wait();
    }
  }

  /** Writes again what found no space. */
  retry(): void {
    if (this.dead !== undefined) return;
    const refused = [...this.#refused];
    this.#refused.clear();
    for (const id of refused) this.#write(id);
  }

  /** Resolves when everything up to segment `id` is durable on the cache device. */
  async makeDurable(id: number): Promise<void> {
    await this.flushed(id);
    this.check();
    if (this.durable < id) await this.flushCache();
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
      const cause = toBlockIoError(error, { device: this.cache.name });
      this.dead = new BlockIoError(`the cache has stopped: ${cause.message}`, {
        code: "EIO",
        device: this.cache.name,
        cause,
        hint: "Check the device below, then open the cache again: it recovers what was flushed.",
      });
      this.onTrouble(this.dead);
    }
    this.changed.notify();
    return this.dead;
  }

  /** The error of whoever needs what finds no space: nothing is lost, it is in RAM. */
  outOfSpace(error: unknown, device: BlockDevice = this.cache): BlockIoError {
    const cause = toBlockIoError(error, { device: device.name, op: "write" });
    return new BlockIoError(`no space is left for the log: ${cause.message}`, {
      code: "ENOSPC",
      device: device.name,
      op: "write",
      cause,
      lossless: true,
      hint: "Make room in the file system below it. What was written is in memory and is tried again by itself.",
    });
  }

  /** Whether a crash could bring back a copy of `block` that is not in the map any more. */
  haunts(block: number): boolean {
    return this.#haunted.has(block);
  }

  #addGhost(ghost: Ghost): void {
    this.#ghosts.push(ghost);
    for (const block of ghost.keys) this.#haunted.set(block, (this.#haunted.get(block) ?? 0) + 1);
  }

  /** Forgets those whose slot holds something durable by now. */
  #layGhosts(): void {
    const { slots } = this.geometry;
    // In the order of their ids.
    const staying = this.#ghosts.findIndex(({ id }) => id + slots > this.durable);
    for (const { keys } of this.#ghosts.splice(0, staying < 0 ? this.#ghosts.length : staying)) {
      for (const block of keys) {
        const left = (this.#haunted.get(block) ?? 0) - 1;
        if (left > 0) this.#haunted.set(block, left);
        else this.#haunted.delete(block);
      }
    }
  }

  /** Whether segment `id` may be written: without a flush, only so many. */
  private mayWrite(id: number): boolean {
    return id - this.durable <= this.geometry.tail;
  }

  #pump(): void {
    while (this.#lengths.has(this.#started + 1) && this.dead === undefined) {
      if (!this.mayWrite(this.#started + 1)) {
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
    if (!isOutOfSpace(error)) {
      this.die(error);
      return;
    }
    this.#refused.add(id);
    this.#refusals += 1;
    const isNews = this.full === undefined;
    this.full = this.outOfSpace(error);
    if (isNews) this.onTrouble(this.full);
    this.changed.notify();
  }

  #completed(id: number): void {
    this.#written.add(id);
    this.#lengths.delete(id);
    while (this.#written.delete(this.lastFlushed + 1)) this.lastFlushed += 1;
    if (this.#refused.size === 0) this.full = undefined;
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
      throw this.die(toBlockIoError(error, { device: this.cache.name, op: "flush" }));
    }
    this.durable = Math.max(this.durable, covered);
    this.#layGhosts();
    this.#progress();
  }

  #progress(): void {
    this.#pump();
    this.changed.notify();
    this.onProgress();
  }
}
