/**
 * Answers reads: from RAM at once, from the cache device and the backing device as few large requests, merged
 * into the caller's buffer without writing anything down.
 *
 * What is in RAM is copied when the request arrives. A slot may be used again, or emptied, while it is being read: then
 * the segment id it holds has changed, or it holds nothing, and that part is looked up once more.
 *
 * What the cache device does not give is read from the backing device where that has the same: of the newest copy, what
 * is clean before and after. Everywhere else it is an error, and tried again by whoever reads again.
 */
import { type BlockIoError, ByteAccess, done, isGiven, isOfPlace, join } from "@dmkit/block-io";
import { runEnd, runStart, sectorBits, sectorsOfBlock } from "../../core/sectors.ts";
import { FULL_SIZE, HIT, ON_BUFFER } from "../../core/statistics.ts";
import { BLOCK, SLOTS_START } from "../../format/geometry.ts";
import { blockOffset } from "../../format/segment.ts";
import type { Parts } from "../parts.ts";
import { doubtfulSegment, unreadable } from "../refusals.ts";

/** A part of a request that has to be read from a device. */
interface Part {
  /** The segment it is read from; 0 for the backing device. */
  readonly id: number;
  /** Byte on that device. */
  readonly from: number;
  /** Byte in the caller's buffer. */
  readonly at: number;
  length: number;
}

/** Of a log that nobody writes to there is no more. */
type ReadParts = Omit<Parts, "ages">;

export class ReadPath {
  readonly #parts: ReadParts;
  // Sectors that were written when the devices had smaller blocks are there still.
  readonly #cache: ByteAccess;
  readonly #backing: ByteAccess;
  readonly #doubtful: ReadonlySet<number> | undefined;

  /**
   * @param doubtful of a view of the past, of what is clean in which the backing device may have newer contents: slots
   * that nobody knows to be whole. Nothing is read from them.
   */
  constructor(parts: ReadParts, doubtful?: ReadonlySet<number>) {
    this.#parts = parts;
    this.#doubtful = doubtful;
    this.#cache = new ByteAccess(parts.log.cache);
    this.#backing = new ByteAccess(parts.backing);
  }

  /** Calls `missed` for every whole part that came from the backing device, when it is there. */
  read(offset: number, into: Buffer, missed?: (offset: number, data: Buffer) => void): Promise<void> {
    const reads = this.#lookUp(offset, into);
    if (reads === undefined) return done;
    const [only, second] = reads;
    if (only !== undefined && second === undefined) return this.#readPart(only, offset, into, missed);
    return join(reads.map((part) => this.#readPart(part, offset, into, missed)));
  }

  /** Copies what is in RAM and returns the other parts. */
  #lookUp(offset: number, into: Buffer): Part[] | undefined {
    const { log, statistics, size } = this.#parts;
    const { map } = log;
    const end = Math.floor((offset + into.length) / BLOCK);
    let reads: Part[] | undefined;
    for (let at = 0; at < into.length; ) {
      const position = offset + at;
      const block = Math.floor(position / BLOCK);
      if (position % BLOCK === 0) {
        // Most of a large read is on the backing device only: a third of its time, looked up in one go.
        const blocks = map.firstFrom(block, end) - block;
        if (blocks > 0) {
          statistics.count(FULL_SIZE, blocks);
          reads = extend(reads, 0, position, at, blocks * BLOCK);
          at += blocks * BLOCK;
          continue;
        }
      }
      const within = position - block * BLOCK;
      const bytes = Math.min(BLOCK - within, into.length - at);
      const bits = bytes === BLOCK ? 0xff : sectorBits(within / 512, bytes / 512);
      const index = map.find(block);
      const kind =
        (index >= 0 ? HIT : 0) |
        (index >= 0 && log.isOpen(index) ? ON_BUFFER : 0) |
        (bits === sectorsOfBlock(size, block) ? FULL_SIZE : 0);
      statistics.count(kind);
      if (index < 0) {
        reads = extend(reads, 0, position, at, bytes);
      } else {
        const cached = (map.valid[index] as number) & bits;
        reads = this.#lookUpBlock(reads, index, cached, bits, block, into, at - within);
      }
      at += bytes;
    }
    return reads;
  }

  /** @param base where the start of the block would be in `into`; negative if the request begins inside it. */
  #lookUpBlock(
    reads: Part[] | undefined,
    index: number,
    cached: number,
    bits: number,
    block: number,
    into: Buffer,
    base: number,
  ): Part[] | undefined {
    const { log } = this.#parts;
    const ram = log.inRam(index);
    let parts = reads;
    for (let from = runStart(bits, 0); from < 8; ) {
      const hit = ((cached >> from) & 1) === 1;
      const end = runEnd(hit ? cached : bits & ~cached, from);
      const at = base + from * 512;
      if (!hit) parts = extend(parts, 0, block * BLOCK + from * 512, at, (end - from) * 512);
      else if (ram !== undefined) ram.copy(into, at, from * 512, end * 512);
      else {
        const place = blockOffset(log.geometry, index) + from * 512;
        parts = extend(parts, log.idOfBlock(index), place, at, (end - from) * 512);
      }
      from = runStart(bits, end);
    }
    return parts;
  }

  #readPart(
    part: Part,
    offset: number,
    into: Buffer,
    missed: ((offset: number, data: Buffer) => void) | undefined,
  ): Promise<void> {
    const piece = part.length === into.length ? into : into.subarray(part.at, part.at + part.length);
    if (part.id !== 0) return this.#readCache(part, offset, piece);
    const reading = this.#backing.read(part.from, piece);
    if (missed === undefined) return reading;
    return reading.then(() => missed(part.from, piece));
  }

  async #readCache(part: Part, offset: number, piece: Buffer): Promise<void> {
    const { log } = this.#parts;
    log.check();
    const slot = Math.floor((part.from - SLOTS_START) / log.geometry.slotSize);
    if (this.#doubtful?.has(slot) === true) throw doubtfulSegment(log.cache, part);
    const isOver = (): boolean => log.idOf(slot) !== part.id || log.map.lengths[slot] === 0;
    try {
      await this.#cache.read(part.from, piece);
    } catch (error) {
      if (!isOfPlace(error)) throw log.die(error);
      if (!isOver()) return this.#readOtherwise(part, offset + part.at, piece, error);
    }
    if (isOver()) await this.read(offset + part.at, piece);
  }

  /** A part, at byte `offset` of the disk, that the cache device did not give: each block by itself. */
  async #readOtherwise(part: Part, offset: number, piece: Buffer, error: BlockIoError): Promise<void> {
    const { map } = this.#parts.log;
    const within = offset % BLOCK;
    if (within + piece.length > BLOCK) {
      for (let at = 0; at < piece.length; ) {
        const end = Math.min(piece.length, at + BLOCK - ((offset + at) % BLOCK));
        await this.read(offset + at, piece.subarray(at, end));
        at = end;
      }
      return;
    }
    const block = Math.floor(offset / BLOCK);
    const index = map.find(block);
    const bits = sectorBits(within / 512, piece.length / 512);
    const isNewest = (): boolean =>
      index >= 0 && map.find(block) === index && this.#parts.log.idOfBlock(index) === part.id;
    const isBelow = (): boolean =>
      this.#doubtful === undefined && isNewest() && ((map.dirty[index] as number) & bits) === 0;
    if (isBelow() && (await isGiven(this.#backing.read(offset, piece))) && isBelow()) return;
    if (isNewest()) throw unreadable(error, this.#parts.log.cache, part.from, piece.length);
    await this.read(offset, piece);
  }
}

/** Adds a part, or makes the last one longer if it goes on where that one ends. */
function extend(reads: Part[] | undefined, id: number, from: number, at: number, length: number): Part[] {
  if (reads === undefined) return [{ id, from, at, length }];
  const last = reads.at(-1);
  if (
    last !== undefined &&
    last.id === id &&
    last.from + last.length === from &&
    last.at + last.length === at
  ) {
    last.length += length;
  } else {
    reads.push({ id, from, at, length });
  }
  return reads;
}
