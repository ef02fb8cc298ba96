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
import { BlockIoError } from "@dmkit/block-io";
import { mergeRules, runEnd, runStart, sectorBits } from "../../core/sectors.ts";
import { FULL_SIZE, HIT, ON_BUFFER, WRITE } from "../../core/statistics.ts";
import { BLOCK } from "../../format/geometry.ts";
import { dataStart } from "../../format/segment.ts";
import { type Parts, sectorsOfBlock } from "../parts.ts";
import { isOfPlace, unreadable } from "../refusals.ts";
import type { Writeback } from "../writeback/writeback.ts";

/** What was read of an old copy, for a merge. */
export interface OldCopy {
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
  overtake(block: number): void;
}

type Obstacle = "room" | "merge" | "busy";

export class WritePath {
  readonly #parts: Parts;
  readonly #writeback: Writeback;
  readonly #traffic: Traffic;
  /** Why the last {@link place} stopped. */
  #obstacle: Obstacle = "room";

  constructor(parts: Parts, writeback: Writeback, traffic: Traffic) {
    this.#parts = parts;
    this.#writeback = writeback;
    this.#traffic = traffic;
  }

  /**
   * Puts as much of `from` (which belongs at byte `offset`, and has been placed up to `at`) into the log as
   * can be without waiting. Returns how far it came.
   */
  place(offset: number, from: Buffer, at: number, old?: OldCopy): number {
    const { log, plog, statistics, size } = this.#parts;
    const { map } = log;
    // A run of source bytes and where in the open buffer it goes, not copied yet.
    let source = at;
    let target = 0;
    let length = 0;
    let buffer = log.open ? log.bufferOf(log.opened) : undefined;
    const copy = (): void => {
      if (length > 0 && buffer !== undefined) from.copy(buffer, target, source, source + length);
      length = 0;
    };
    while (at < from.length) {
      const position = offset + at;
      const block = Math.floor(position / BLOCK);
      const within = position - block * BLOCK;
      const bytes = Math.min(BLOCK - within, from.length - at);
      const bits = bytes === BLOCK ? 0xff : sectorBits(within / 512, bytes / 512);
      if (this.#traffic.busy(block)) {
        this.#obstacle = "busy";
        break;
      }
      let index = map.find(block);
      let kind = WRITE | (index >= 0 ? HIT : 0) | (bits === sectorsOfBlock(size, block) ? FULL_SIZE : 0);
      if (index >= 0 && log.isOpen(index) && (plog === undefined || plog.fits(512 + bytes))) {
        kind |= ON_BUFFER;
        map.soil(index, bits);
        plog?.append(position / 512, index % map.blocks, from.subarray(at, at + bytes));
      } else {
        const keep = index < 0 ? 0 : mergeRules.keep(map.dirty[index] as number, bits);
        // The run belongs to the buffer that is open now.
        if (log.count === map.blocks || plog !== undefined || !log.open) copy();
        if (!this.#room(bits | keep)) {
          this.#obstacle = "room";
          break;
        }
        buffer = log.bufferOf(log.opened);
        const previous = map.find(block);
        // Opening a segment may have forgotten the old copy; it was clean then.
        const kept = previous < 0 ? 0 : mergeRules.keep(map.dirty[previous] as number, bits);
        let keptFrom: Buffer | undefined;
        if (kept !== 0) {
          keptFrom = log.inRam(previous);
          if (keptFrom === undefined && old?.index === previous && old.id === log.idOfBlock(previous)) {
            keptFrom = old.data;
          }
          if (keptFrom === undefined) {
            this.#obstacle = "merge";
            break;
          }
        }
        index = log.take(block);
        map.valid[index] = bits | kept;
        map.dirty[index] = bits | kept;
        map.adopt(index, previous);
        const start = dataStart(index % map.blocks);
        if (keptFrom !== undefined) copySectors(keptFrom, buffer, start, kept);
        if (plog !== undefined) {
          // The record is made from the merged block.
          from.copy(buffer, start + within, at, at + bytes);
          this.#logPersistently(block, index % map.blocks, buffer, start, bits | kept);
        }
      }
      this.#traffic.overtake(block);
      statistics.count(kind);
      // Copied already, for its record.
      if (plog !== undefined && length === 0 && (kind & ON_BUFFER) === 0) {
        at += bytes;
        continue;
      }
      const to = dataStart(index % map.blocks) + within;
      if (length > 0 && to !== target + length) copy();
      if (length === 0) {
        source = at;
        target = to;
      }
      length += bytes;
      at += bytes;
    }
    copy();
    return at;
  }

  /** Goes on after {@link place} has come as far as `at`, waiting for whatever it takes. */
  async finish(offset: number, from: Buffer, at: number): Promise<void> {
    const { log } = this.#parts;
    let old: OldCopy | undefined;
    let failures: number | undefined;
    for (let next = at; ; ) {
      log.check();
      const before = next;
      next = this.place(offset, from, next, old);
      if (next === from.length) return;
      if (next > before) failures = undefined;
      if (this.#obstacle === "busy") await this.#traffic.wait();
      else if (this.#obstacle === "room") {
        // Room that others take, or that is used for what the backing device refuses, must not be for ever.
        failures ??= this.#writeback.failures;
        await this.waitForRoom();
        if (failures !== this.#writeback.failures && !log.canOpen()) throw this.#writeback.lastError;
      } else old = await this.#fetch(Math.floor((offset + next) / BLOCK));
    }
  }

  /** Waits until another segment can be opened. Throws when writing back what is in its slot fails. */
  async waitForRoom(): Promise<void> {
    const { log } = this.#parts;
    log.check();
    if (log.canOpen()) return;
    if (log.lastWriteback < log.neededWriteback) await this.#writeback.reach(log.neededWriteback);
    else await log.flushed(log.neededFlush);
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
    const index = log.take(block);
    const start = dataStart(index % map.blocks);
    const buffer = log.bufferOf(log.opened);
    data.copy(buffer, start);
    map.valid[index] = bits;
    map.dirty[index] = bits;
    map.adopt(index, previous);
    // The older copy stays until this one is durable on the cache device: it needs no record.
    if (plog?.isRecording) this.#logPersistently(block, index % map.blocks, buffer, start, bits);
    return true;
  }

  /** Puts a clean block, as it is on the backing device, into the log if that costs nobody anything. */
  stage(block: number, data: Buffer): void {
    const { log, plog, size } = this.#parts;
    const { map } = log;
    if (map.find(block) >= 0 || this.#traffic.busy(block) || !this.#room(0xff)) return;
    const index = log.take(block);
    const start = dataStart(index % map.blocks);
    const buffer = log.bufferOf(log.opened);
    data.copy(buffer, start);
    map.valid[index] = sectorsOfBlock(size, block);
    map.dirty[index] = 0;
    map.adopt(index, -1);
    if (plog !== undefined) {
      this.#logPersistently(block, index % map.blocks, buffer, start, map.valid[index]);
    }
  }

  /** Room for one more block, and in the plog for records of these sectors. */
  #room(bits: number, kept = 1): boolean {
    const { log, plog } = this.#parts;
    if (plog !== undefined && log.open && !plog.fits(recordBytes(bits))) log.close();
    return log.room(kept);
  }

  #logPersistently(block: number, index: number, buffer: Buffer, start: number, bits: number): void {
    for (let from = runStart(bits, 0); from < 8; ) {
      const end = runEnd(bits, from);
      const data = buffer.subarray(start + from * 512, start + end * 512);
      this.#parts.plog?.append(block * 8 + from, index, data);
      from = runStart(bits, end);
    }
  }

  async #fetch(block: number): Promise<OldCopy | undefined> {
    const { log } = this.#parts;
    const index = log.map.find(block);
    if (index < 0 || log.inRam(index) !== undefined) return undefined;
    const id = log.idOfBlock(index);
    const data = Buffer.allocUnsafe(BLOCK);
    const offset = log.dataOffset(index);
    try {
      await log.cache.read(offset, data);
    } catch (error) {
      if (error instanceof BlockIoError && error.code === "ESHUTDOWN") throw error;
      if (!isOfPlace(error)) throw log.die(error);
      // What has been superseded meanwhile is not needed.
      if (log.map.find(block) === index && log.idOfBlock(index) === id)
        throw unreadable(error, offset, BLOCK);
      return undefined;
    }
    return { index, id, data };
  }
}

/** Bytes in the plog of records of these sectors of one block, one record a run. */
function recordBytes(bits: number): number {
  let bytes = 0;
  for (let from = runStart(bits, 0); from < 8; ) {
    const end = runEnd(bits, from);
    bytes += 512 * (1 + end - from);
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
