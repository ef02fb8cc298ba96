/**
 * Discards, zeroes, and writes of sequential streams. Blocks that are in the log are written over in the log;
 * what is not in the log goes straight to the backing device, however large it is.
 *
 * Invariants:
 *
 * - a block goes past the log only if neither the map nor a segment that a crash could still bring back has a
 *   copy of it: else replay would bring the old contents back over what was promised;
 * - while a request is under way past the log, writes to its blocks wait: else it could overtake one that was
 *   acknowledged and already written back;
 * - `unflushed` is true as long as something that went past the log is not known to be durable.
 */
import { type BlockDevice, Signal, type WriteZeroesOptions, done, zeroes } from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry.ts";
import type { Parts } from "../parts.ts";
import type { Staging } from "./staging.ts";
import type { Traffic, WritePath } from "./write-path.ts";

// Blocks looked up without giving way to others, and blocks of zeroes put into the log at once.
const LOOK_AHEAD = 65_536;
const ZEROES = 256;

interface Range {
  readonly first: number;
  readonly end: number;
}

export class Bypass implements Traffic {
  /** Parts of blocks go past the log as whole ones do. */
  takesParts = false;
  readonly #parts: Parts;
  readonly #staging: Staging;
  #active: Range[] = [];
  readonly #over: Signal = new Signal();
  #completed = 0;
  #flushed = 0;

  constructor(parts: Parts, staging: Staging) {
    this.#parts = parts;
    this.#staging = staging;
  }

  get active(): boolean {
    return this.#active.length > 0;
  }

  get unflushed(): boolean {
    return this.#completed > this.#flushed || this.active;
  }

  busy(block: number): boolean {
    for (const { first, end } of this.#active) if (block >= first && block < end) return true;
    return false;
  }

  /** Whether a request is under way on any of these bytes. */
  overlaps(offset: number, length: number): boolean {
    return this.#active.some(({ first, end }) => offset < end * BLOCK && offset + length > first * BLOCK);
  }

  wait(): Promise<void> {
    return this.#over.wait();
  }

  forgetStaged(block: number): void {
    this.#staging.forget(block);
  }

  /** Makes durable what went past the log. */
  async flush(backing: BlockDevice): Promise<void> {
    const completed = this.#completed;
    if (completed === this.#flushed) return;
    await backing.flush();
    this.#flushed = Math.max(this.#flushed, completed);
  }

  /** For data that would only be written twice. */
  write(path: WritePath, offset: number, data: Buffer): Promise<void> {
    const end = offset + data.length;
    const first = Math.floor(offset / BLOCK);
    const last = Math.ceil(end / BLOCK);
    const isWhole =
      this.takesParts || (offset % BLOCK === 0 && (end % BLOCK === 0 || end === this.#parts.size));
    // Most streams go where the log has nothing: one request then, and none to wait for.
    if (!isWhole || this.#inLog(first) || this.busy(first) || this.#endPastLog(first, last, end) < last) {
      return this.#writeParts(path, offset, data);
    }
    this.#parts.statistics.bypassedBytes += data.length;
    const request = this.#parts.backing.write(offset, data);
    if (request !== done) return this.#goPast({ first, end: last }, () => request);
    this.#staging.forgetRange(first, last);
    this.#completed += 1;
    return done;
  }

  async #writeParts(path: WritePath, offset: number, data: Buffer): Promise<void> {
    const { backing } = this.#parts;
    const piece = (from: number, count: number): Buffer =>
      data.subarray(from - offset, from - offset + count);
    const past = (from: number, count: number): Promise<void> => {
      this.#parts.statistics.bypassedBytes += count;
      return backing.write(from, piece(from, count));
    };
    await this.#each(path, offset, data.length, past, piece);
  }

  async writeZeroes(
    path: WritePath,
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    const { backing } = this.#parts;
    const how = { mayUnmap: options.mayUnmap };
    await this.#each(path, offset, length, (from, count) => backing.writeZeroes(from, count, how));
  }

  /** Only whole blocks: the rest is left as it is. */
  async discard(path: WritePath, offset: number, length: number): Promise<void> {
    const { backing, size } = this.#parts;
    const start = Math.ceil(offset / BLOCK) * BLOCK;
    const end = offset + length === size ? size : Math.floor((offset + length) / BLOCK) * BLOCK;
    if (end <= start) return;
    await this.#each(path, start, end - start, (from, count) => backing.discard(from, count));
  }

  async #each(
    path: WritePath,
    offset: number,
    length: number,
    past: (offset: number, length: number) => Promise<void>,
    contents: (offset: number, length: number) => Buffer = (_offset, count) => zeroes(count),
  ): Promise<void> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const block = Math.floor(at / BLOCK);
      const last = Math.ceil(end / BLOCK);
      const whole =
        this.takesParts || (at % BLOCK === 0 && (end >= (block + 1) * BLOCK || end === this.#parts.size));
      if (whole && !this.#inLog(block)) {
        if (this.busy(block)) {
          await this.wait();
          continue;
        }
        const stop = this.#endPastLog(block, Math.min(last, block + LOOK_AHEAD), end);
        const count = Math.min(end, stop * BLOCK) - at;
        await this.#goPast({ first: block, end: stop }, () => past(at, count));
        at += count;
      } else {
        let stop = block + 1;
        while (stop < last && stop < block + ZEROES && this.#inLog(stop)) stop += 1;
        const count = Math.min(end, stop * BLOCK) - at;
        await path.finish(at, contents(at, count), 0);
        at += count;
      }
    }
  }

  /** `block` is whole, and neither in the log nor busy: the end of the run of such blocks from there. */
  #endPastLog(block: number, last: number, end: number): number {
    const whole = this.takesParts || end === this.#parts.size ? last : Math.floor(end / BLOCK);
    const limit = Math.min(last, whole, this.#nextBusy(block));
    let stop = block + 1;
    while (stop < limit && !this.#inLog(stop)) stop += 1;
    return stop;
  }

  /** The first busy block behind `block`, which is not busy itself; Infinity if there is none. */
  #nextBusy(block: number): number {
    let next = Infinity;
    for (const { first, end } of this.#active) if (end > block) next = Math.min(next, first);
    return next;
  }

  async #goPast(range: Range, request: () => Promise<void>): Promise<void> {
    this.#active.push(range);
    this.#staging.forgetRange(range.first, range.end);
    try {
      await request();
    } finally {
      this.#active.splice(this.#active.indexOf(range), 1);
      // Also after an error: some of it may have been done.
      this.#completed += 1;
      this.#over.notify();
    }
  }

  #inLog(block: number): boolean {
    const { log } = this.#parts;
    return log.rules.isLogged(log, block);
  }
}
