/**
 * One batch of writeback: what of some segments the backing device lacks, read from the cache device, sorted, and
 * written in the order of addresses.
 *
 * Invariants:
 *
 * - a block is left out only when a newer copy of it is durable on the cache device: until then the old copy is
 *   what a crash would leave, and its slot is about to be used again;
 * - a block that the backing device does not take is tried by itself before it is given up, and keeps no other
 *   from being written;
 * - what the backing device has already, in spite of refusing it, is looked for before anything is written: what can be
 *   read after a write that failed need not last.
 */
import {
  type BlockDevice,
  BlockIoError,
  BufferPool,
  ByteAccess,
  inParallel,
  isGiven,
  isOfPlace,
} from "@dmkit/block-io";
import { type Entry, LARGEST_WRITE, type PlannedWrite } from "../../core/writeback-plan.ts";
import { runEnd, runStart } from "../../core/sectors.ts";
import { BLOCK, slotOf } from "../../format/geometry.ts";
import { dataStart, segmentSize } from "../../format/segment.ts";
import { readDurable } from "../log/read-slot.ts";
import type { SegmentLog } from "../log/segment-log.ts";

// Bytes of segments in RAM at once, and writes in flight to the backing device.
const LARGEST_BATCH = 64 * 1024 * 1024;
const DEPTH = 32;
const READ_DEPTH = 8;
// Blocks that fail by themselves, where nothing at all succeeds, before the device counts as failed.
const MOST_TRIES = 64;

/** Segments in a batch at most, bounded by memory. */
export function largestBatch({ geometry }: SegmentLog): number {
  return Math.max(1, Math.floor(LARGEST_BATCH / geometry.slotSize));
}

/** The error of segments, one or more, by id. */
export function brokenError(broken: ReadonlyMap<number, BlockIoError>): BlockIoError {
  const ids = [...broken.keys()].sort((a, b) => a - b);
  const first = broken.get(ids[0] as number) as BlockIoError;
  if (ids.length === 1) return first;
  const { code, device, op, offset, length, hint } = first;
  const rest = ids.slice(1, 20).join(", ");
  return new BlockIoError(`${first.reason}; nor can ${rest}${ids.length > 20 ? " …" : ""}`, {
    code,
    device,
    op,
    offset,
    length,
    cause: first,
    hint,
  });
}

/** What came of a batch. */
export interface BatchResult {
  /** Whether anything was written. */
  readonly wrote: boolean;
  /** Copies of blocks that the backing device does not take, oldest first. Their data is valid until the release. */
  readonly refused: readonly Entry[];
  /** Why, of the first of them. */
  readonly error: BlockIoError | undefined;
  /** Whether the backing device has had all of a copy before it was written, and has it still. */
  readonly isBelow: (entry: Entry) => Promise<boolean>;
  /** Why segments that hold something are damaged or cannot be read, by id: nothing of them was written. */
  readonly broken: ReadonlyMap<number, BlockIoError>;
  /** Blocks that were written. */
  readonly blocks: ReadonlyMap<number, unknown>;
  readonly release: () => void;
}

export class BatchCopier {
  /** Bytes that were written to the backing device. */
  written = 0;
  readonly #log: SegmentLog;
  readonly #backing: BlockDevice;
  readonly #access: ByteAccess;
  // Memory of the batch, used again for the next: garbage of this size would set off a collection every 100 ms.
  readonly #segments: BufferPool;
  readonly #joined: BufferPool = new BufferPool(LARGEST_WRITE, DEPTH);

  constructor(log: SegmentLog, backing: BlockDevice) {
    this.#log = log;
    this.#backing = backing;
    this.#access = new ByteAccess(backing);
    this.#segments = new BufferPool(log.geometry.slotSize, largestBatch(log));
  }

  /** Gives the memory of batches back. */
  trim(): void {
    this.#segments.trim();
    this.#joined.trim();
  }

  /**
   * Writes what the backing device lacks of these segments; not flushed. Throws what concerns more than single
   * blocks: no space, no device, nothing at all that can be written.
   * @param past whether also of those that come after one which is damaged or cannot be read.
   */
  async copy(ids: readonly number[], durable: number, past: boolean): Promise<BatchResult> {
    const collected: Entry[] = [];
    const broken = new Map<number, BlockIoError>();
    const buffers: Buffer[] = [];
    const release = (): void => {
      for (const buffer of buffers.splice(0)) this.#segments.release(buffer);
    };
    try {
      await inParallel(ids, READ_DEPTH, async (id) => {
        const error = await this.#collect(id, durable, collected, buffers);
        if (error !== undefined) broken.set(id, error);
      });
      const end = past ? Number.POSITIVE_INFINITY : Math.min(...broken.keys());
      const entries = collected.filter(({ id }) => id < end);
      const below = await this.#present(entries);
      const failed: PlannedWrite[] = [];
      const plan = this.#log.rules.plan(entries);
      await inParallel(plan, DEPTH, async (planned) => {
        try {
          await this.#write(planned);
        } catch (error) {
          if (!isOfPlace(error)) throw error;
          failed.push(planned);
        }
      });
      const result = await this.#oneByOne(entries, failed, failed.length < plan.length);
      return {
        ...result,
        broken,
        isBelow: async (entry) => below.has(entry) && (await this.#isPresent(entry)),
        release,
      };
    } catch (error) {
      release();
      throw error;
    }
  }

  /**
   * Copies of the oldest segment that the backing device has already. Looked for only where no slot is left to log any
   * of them again: after a crash, segments that have been written back count as dirty where the record is behind, and
   * so do, in the classic dialect, blocks that were staged.
   */
  async #present(entries: readonly Entry[]): Promise<ReadonlySet<Entry>> {
    const { lastWriteback, opened, geometry } = this.#log;
    const present = new Set<Entry>();
    if (opened - lastWriteback < geometry.slots) return present;
    const oldest = entries.filter(({ id }) => id === lastWriteback + 1);
    await inParallel(oldest, DEPTH, async (entry) => {
      if (await this.#isPresent(entry)) present.add(entry);
    });
    return present;
  }

  async #isPresent({ block, bits, data }: Entry): Promise<boolean> {
    const there = Buffer.allocUnsafe(BLOCK);
    for (let from = runStart(bits, 0); from < 8; ) {
      const end = runEnd(bits, from);
      const part = there.subarray(from * 512, end * 512);
      if (!(await isGiven(this.#access.read(block * BLOCK + from * 512, part)))) return false;
      if (!part.equals(data.subarray(from * 512, end * 512))) return false;
      from = runStart(bits, end);
    }
    return true;
  }

  /** Tries the blocks of the requests that failed by themselves. @param some whether any request succeeded. */
  async #oneByOne(
    entries: readonly Entry[],
    failed: readonly PlannedWrite[],
    some: boolean,
  ): Promise<Omit<BatchResult, "broken" | "isBelow" | "release">> {
    const copies = new Map<number, Entry[]>();
    for (const entry of entries) {
      const known = copies.get(entry.block);
      if (known === undefined) copies.set(entry.block, [entry]);
      else known.push(entry);
    }
    const bad = new Set<number>();
    let wrote = some;
    let first: BlockIoError | undefined;
    for (const { offset, length } of failed) {
      for (let block = Math.floor(offset / BLOCK); block * BLOCK < offset + length; block += 1) {
        if (bad.has(block)) continue;
        try {
          for (const planned of this.#log.rules.plan(copies.get(block) ?? [])) await this.#write(planned);
          wrote = true;
        } catch (error) {
          if (!isOfPlace(error)) throw error;
          first ??= error;
          bad.add(block);
          // A device that takes nothing at all has another trouble than a bad spot.
          if (!wrote && bad.size >= MOST_TRIES) throw error;
        }
      }
    }
    const refused = entries.filter(({ block }) => bad.has(block)).sort((a, b) => a.id - b.id);
    for (const block of bad) copies.delete(block);
    return { wrote, refused, error: first, blocks: copies };
  }

  /**
   * What has to be written of segment `id`. The segment is read, into one of `buffers`, only if there is anything.
   * Returns why it cannot be used, if so.
   */
  async #collect(
    id: number,
    durable: number,
    entries: Entry[],
    buffers: Buffer[],
  ): Promise<BlockIoError | undefined> {
    const { map, geometry } = this.#log;
    const slot = slotOf(geometry, id);
    const length = map.lengths[slot] as number;
    const bits = new Uint8Array(length);
    let some = false;
    for (let at = 0; at < length; at += 1) {
      bits[at] = this.#unsafe(slot * map.blocks + at, durable);
      some ||= bits[at] !== 0;
    }
    if (!some) return undefined;
    const whole = await this.#segments.acquire();
    buffers.push(whole);
    const buffer = whole.subarray(0, segmentSize(length));
    const hint =
      "Nothing of it is written back. Check the cache device offline; writing its blocks anew supersedes it. If it stays so, take what can be had of it: message give_up_segment and the number.";
    const broken = await readDurable(this.#log, id, buffer, hint);
    if (broken !== undefined) return broken;
    for (let at = 0; at < length; at += 1) {
      if (bits[at] === 0) continue;
      const index = slot * map.blocks + at;
      const data = buffer.subarray(dataStart(at), dataStart(at) + BLOCK);
      entries.push({ block: map.keys[index] as number, id, index, bits: bits[at] as number, data });
    }
    return undefined;
  }

  /** The sectors of a cache block that neither the backing device nor a durable newer copy has. */
  #unsafe(index: number, durable: number): number {
    const { map } = this.#log;
    const dirty = map.dirty[index] as number;
    if (dirty === 0) return 0;
    const newest = map.find(map.keys[index] as number);
    if (newest === index || newest < 0) return dirty;
    if (!this.#log.rules.supersedes(this.#log.idOfBlock(newest), durable)) return dirty;
    return dirty & ~(map.valid[newest] as number);
  }

  // Begins its request before it returns: requests are made in the order of the plan, which is that of addresses.
  async #write({ offset, length, pieces }: PlannedWrite): Promise<void> {
    const [only, second] = pieces;
    if (only === undefined) await this.#backing.writeZeroes(offset, length, { mayUnmap: true });
    else if (second === undefined) await this.#access.write(offset, only);
    else await this.#writeJoined(offset, length, pieces);
    this.written += length;
  }

  async #writeJoined(offset: number, length: number, pieces: readonly Buffer[]): Promise<void> {
    // There are as many as requests at once.
    const joined = this.#joined.tryAcquire() ?? (await this.#joined.acquire());
    try {
      let end = 0;
      for (const piece of pieces) end += piece.copy(joined, end);
      await this.#access.write(offset, joined.subarray(0, length));
    } finally {
      this.#joined.release(joined);
    }
  }
}
