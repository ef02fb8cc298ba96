/**
 * Puts writes into the log, 4 KiB block by block; contiguous runs are copied once.
 *
 * Invariant: the newest copy of a block in the log, over what is durable on the backing device, is the whole
 * truth about it. So a partial write takes along the sectors of the copy it replaces that are still dirty.
 * Replay may then look at newest copies only and never has to write an old one down.
 *
 * Copies in the log never change once their segment is closed. A merge may therefore read the old copy at
 * leisure: if it is still the newest one afterwards, what was read is right; else the merge starts over.
 */
import { BlockIoError, isOfPlace, readWhatIsGiven } from "@dmkit/block-io";
import { runEnd, runStart, sectorBits, sectorsOfBlock } from "../../core/sectors.ts";
import { FULL_SIZE, HIT, ON_BUFFER, WRITE } from "../../core/statistics.ts";
import { BLOCK } from "../../format/geometry.ts";
import { recordSize } from "../../format/plog.ts";
import { blockOffset, dataStart } from "../../format/segment.ts";
import type { Parts } from "../parts.ts";
import { unreadable } from "../refusals.ts";
import type { Writeback } from "../writeback/writeback.ts";

/** What was read of an old copy, for a merge. */
interface OldCopy {
  readonly index: number;
  readonly id: number;
  readonly data: Buffer;
}

/** Who else has a say before a block may enter the log. */
export interface Traffic {
  /** Whether a request that goes past the log is under way on the block. */
  busy(block: number): boolean;
  /** Resolves when one of them is over. */
  wait(): Promise<void>;
  /** The block is being written: what was read of it earlier must not be staged. */
  forgetStaged(block: number): void;
}

/** What came of a block: it is in the log, or waits for room, for a request past the log, or for its old copy. */
type Placed = "placed" | "room" | "busy" | "merge";

export class WritePath {
  readonly #parts: Parts;
  readonly #writeback: Writeback;
  readonly #traffic: Traffic;
  readonly #run: RunCopy = new RunCopy();

  constructor(parts: Parts, writeback: Writeback, traffic: Traffic) {
    this.#parts = parts;
    this.#writeback = writeback;
    this.#traffic = traffic;
  }

  /** Puts as much of `from`, which belongs at byte `offset`, into the log as can be without waiting. Returns how far it came. */
  place(offset: number, from: Buffer): number {
    let at = 0;
    while (at < from.length && this.#placeBlock(offset, from, at, undefined) === "placed")
      at += bytesInBlock(offset, from, at);
    this.#run.end();
    return at;
  }

  /** Goes on after {@link place} has come as far as `at`, waiting for whatever it takes. */
  async finish(offset: number, from: Buffer, at: number): Promise<void> {
    const { log } = this.#parts;
    let old: OldCopy | undefined;
    let failures: number | undefined;
    for (let next = at; next < from.length; ) {
      log.check();
      const placed = this.#placeBlock(offset, from, next, old);
      if (placed === "placed") {
        next += bytesInBlock(offset, from, next);
        failures = undefined;
        continue;
      }
      this.#run.end();
      if (placed === "busy") await this.#traffic.wait();
      else if (placed === "room") {
        // Room that others take, or that is used for what the backing device refuses, must not be for ever.
        failures ??= this.#writeback.failures;
        await this.waitForRoom();
        if (failures !== this.#writeback.failures && !log.canOpen()) throw this.#writeback.lastError;
      } else old = await this.#fetch(offset + next, bytesInBlock(offset, from, next));
    }
    this.#run.end();
  }

  /** Puts the part of `from` at `at` that lies in one block into the log; its bytes are copied with the run they end. */
  #placeBlock(offset: number, from: Buffer, at: number, old: OldCopy | undefined): Placed {
    const { log, plog, statistics, size } = this.#parts;
    const { map } = log;
    const position = offset + at;
    const block = Math.floor(position / BLOCK);
    const within = position - block * BLOCK;
    const bytes = bytesInBlock(offset, from, at);
    const bits = bytes === BLOCK ? 0xff : sectorBits(within / 512, bytes / 512);
    if (this.#traffic.busy(block)) return "busy";
    let index = map.find(block);
    let kind = WRITE | (index >= 0 ? HIT : 0) | (bits === sectorsOfBlock(size, block) ? FULL_SIZE : 0);
    const isHere = index >= 0 && log.isOpen(index) && (plog === undefined || plog.fits(recordSize(bytes)));
    if (isHere) {
      kind |= ON_BUFFER;
      map.markDirty(index, bits);
      plog?.append(position / 512, index % map.blocks, from.subarray(at, at + bytes));
    } else {
      const placed = this.#newCopy(block, bits, index, old);
      if (typeof placed === "string") return placed;
      index = placed;
    }
    this.#traffic.forgetStaged(block);
    statistics.count(kind);
    const buffer = log.bufferOf(log.opened);
    const to = dataStart(index % map.blocks) + within;
    if (plog === undefined || isHere) this.#run.add(from, at, buffer, to, bytes);
    else {
      // The record is made from the merged block.
      from.copy(buffer, to, at, at + bytes);
      this.#record(block, index, map.valid[index] as number);
    }
    return "placed";
  }

  /** A new copy of a block in the open segment, with what it keeps of the one at `known` (-1: there is none). */
  #newCopy(block: number, bits: number, known: number, old: OldCopy | undefined): number | "room" | "merge" {
    const { log, plog } = this.#parts;
    const { map } = log;
    const keep = known < 0 ? 0 : log.rules.keep(map.dirty[known] as number, bits);
    // The run belongs to the buffer that is open now.
    if (log.count === map.blocks || plog !== undefined || !log.open) this.#run.end();
    if (!this.#room(bits | keep)) return "room";
    const previous = map.find(block);
    // Opening a segment may have forgotten the old copy; it was clean then.
    const kept = previous < 0 ? 0 : log.rules.keep(map.dirty[previous] as number, bits);
    let keptFrom: Buffer | undefined;
    if (kept !== 0) {
      keptFrom = log.inRam(previous);
      if (keptFrom === undefined && old?.index === previous && old.id === log.idOfBlock(previous))
        keptFrom = old.data;
      if (keptFrom === undefined) return "merge";
    }
    const index = log.append(block, bits | kept, bits | kept, previous);
    if (keptFrom !== undefined)
      copySectors(keptFrom, log.bufferOf(log.opened), dataStart(index % map.blocks), kept);
    return index;
  }

  /** Waits until it may be that another segment can be opened. Throws when writing back what is in its slot fails, or the archive is given up. */
  async waitForRoom(): Promise<void> {
    const { log } = this.#parts;
    log.check();
    if (log.canOpen()) return;
    if (log.lastWriteback < log.neededWriteback) await this.#writeback.reach(log.neededWriteback);
    else if (log.archived.last < log.neededWriteback) await log.archived.waitFor(log.neededWriteback);
    else if (log.lastFlushed < log.neededFlush) await log.flushed(log.neededFlush);
    // The slot is being emptied.
    else await log.changed.wait();
  }

  /**
   * Puts a block that the backing device does not take into the log again: its newest copy, which is cache block
   * `previous` with these contents. False if there is no room now; the slot kept back for this counts as room.
   */
  relog(previous: number, data: Buffer): boolean {
    const { log, plog } = this.#parts;
    const { map } = log;
    const block = map.keys[previous] as number;
    const bits = map.valid[previous] as number;
    if (plog?.isRecording && !plog.fits(recordBytes(bits))) log.close();
    if (!log.room(0)) return false;
    // The older copy stays until this one is durable on the cache device: it needs no record.
    this.#put(block, data, bits, bits, previous, plog?.isRecording === true);
    return true;
  }

  /** Puts a clean block, as it is on the backing device, into the log if that costs nobody anything. */
  stage(block: number, data: Buffer): void {
    const { log, plog, size } = this.#parts;
    const { map } = log;
    if (map.find(block) >= 0 || this.#traffic.busy(block) || !this.#room(0xff)) return;
    this.#put(block, data, sectorsOfBlock(size, block), 0, -1, plog !== undefined);
  }

  #put(
    block: number,
    data: Buffer,
    valid: number,
    dirty: number,
    previous: number,
    isRecorded: boolean,
  ): void {
    const { log } = this.#parts;
    const index = log.append(block, valid, dirty, previous);
    data.copy(log.bufferOf(log.opened), dataStart(index % log.map.blocks));
    if (isRecorded) this.#record(block, index, valid);
  }

  /** Room for one more block, and in the plog for records of these sectors. */
  #room(bits: number): boolean {
    const { log, plog } = this.#parts;
    if (plog !== undefined && log.open && !plog.fits(recordBytes(bits))) log.close();
    return log.room();
  }

  /** Records these sectors of a cache block of the open segment in the plog. */
  #record(block: number, index: number, bits: number): void {
    const { log, plog } = this.#parts;
    const at = index % log.map.blocks;
    const data = log.bufferOf(log.opened).subarray(dataStart(at), dataStart(at) + BLOCK);
    for (let from = runStart(bits, 0); from < 8; ) {
      const end = runEnd(bits, from);
      plog?.append(block * 8 + from, at, data.subarray(from * 512, end * 512));
      from = runStart(bits, end);
    }
  }

  /** The old copy of a block, for a write of part of it: what that keeps has to be given. */
  async #fetch(position: number, bytes: number): Promise<OldCopy | undefined> {
    const { log } = this.#parts;
    const block = Math.floor(position / BLOCK);
    const index = log.map.find(block);
    if (index < 0 || log.inRam(index) !== undefined) return undefined;
    const id = log.idOfBlock(index);
    const data = Buffer.allocUnsafe(BLOCK);
    const offset = blockOffset(log.geometry, index);
    try {
      await log.cache.read(offset, data);
    } catch (error) {
      if (error instanceof BlockIoError && error.code === "ESHUTDOWN") throw error;
      if (!isOfPlace(error)) throw log.die(error);
      const missing = await readWhatIsGiven(log.cache, offset, data);
      // What has been superseded meanwhile is not needed.
      if (log.map.find(block) !== index || log.idOfBlock(index) !== id) return undefined;
      const written = sectorBits((position % BLOCK) / 512, bytes / 512);
      const kept = log.rules.keep(log.map.dirty[index] as number, written);
      if ([...missing].some((sector) => ((kept >> sector) & 1) === 1))
        throw unreadable(error, log.cache, offset, BLOCK);
    }
    return { index, id, data };
  }
}

/** Of the part of a request that begins at `at`: bytes up to the end of its block. */
function bytesInBlock(offset: number, from: Buffer, at: number): number {
  return Math.min(BLOCK - ((offset + at) % BLOCK), from.length - at);
}

/** Bytes of a request that lie one behind the other in the segment as well: they are copied together. */
class RunCopy {
  #from: Buffer | undefined;
  #into: Buffer | undefined;
  #source = 0;
  #target = 0;
  #length = 0;

  /** The next bytes of the request. */
  add(from: Buffer, source: number, into: Buffer, target: number, length: number): void {
    if (target !== this.#target + this.#length || into !== this.#into) this.end();
    if (this.#length === 0) {
      this.#from = from;
      this.#into = into;
      this.#source = source;
      this.#target = target;
    }
    this.#length += length;
  }

  end(): void {
    if (this.#length > 0)
      this.#from?.copy(this.#into as Buffer, this.#target, this.#source, this.#source + this.#length);
    this.#from = undefined;
    this.#into = undefined;
    this.#length = 0;
  }
}

/** Bytes in the plog of records of these sectors of one block, one record a run. */
function recordBytes(bits: number): number {
  let bytes = 0;
  for (let from = runStart(bits, 0); from < 8; ) {
    const end = runEnd(bits, from);
    bytes += recordSize(512 * (end - from));
    from = runStart(bits, end);
  }
  return bytes;
}

function copySectors(from: Buffer, into: Buffer, start: number, bits: number): void {
  for (let at = runStart(bits, 0); at < 8; ) {
    const end = runEnd(bits, at);
    from.copy(into, start + at * 512, at * 512, end * 512);
    at = runStart(bits, end);
  }
}
