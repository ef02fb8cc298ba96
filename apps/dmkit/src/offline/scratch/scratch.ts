/**
 * A device over another that keeps what is written in memory: to try something out, or to replay a log whose own
 * device must stay as it is. Nothing reaches the device below.
 *
 * A sector is, in this order: what was written (`#chunks`, whole chunks filled up from below), zero (`#zeroes`), or
 * what is below.
 */
import {
  type BlockDevice,
  BlockIoError,
  type Extent,
  GuardedDevice,
  Turnstile,
  done,
  isZero,
  withCapabilities,
} from "@dmkit/block-io";
import { RangeSet } from "./range-set.ts";

const CHUNK = 64 * 1024;

export class ScratchDevice extends GuardedDevice {
  readonly #below: BlockDevice;
  readonly #limit: number;
  readonly #chunks = new Map<number, Buffer>();
  // Whole chunks only.
  readonly #zeroes = new RangeSet();
  // One at a time: filling up a chunk takes time, and nobody is in a hurry here.
  readonly #turns = new Turnstile();
  #written = false;

  /** @param limit bytes of memory; more fails with `ENOMEM`. */
  constructor(below: BlockDevice, limit: number = 512 * 1024 * 1024) {
    const able = withCapabilities(below.limits, {
      readOnly: false,
      fua: "native",
      discard: "native",
      discardZeroes: true,
      writeZeroes: "native",
      fastZero: true,
      extents: false,
    });
    super(below.name, below.size, able);
    this.#below = below;
    this.#limit = limit;
  }

  /** Whether anybody has written. */
  get written(): boolean {
    return this.#written;
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    for (let at = 0; at < into.length; ) {
      const within = (offset + at) % CHUNK;
      const count = Math.min(CHUNK - within, into.length - at);
      const start = offset + at - within;
      const chunk = this.#chunks.get(start / CHUNK);
      const piece = into.subarray(at, at + count);
      if (chunk !== undefined) chunk.copy(piece, 0, within, within + count);
      else if (this.#isZero(start)) piece.fill(0);
      else await this.#below.read(offset + at, piece);
      at += count;
    }
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    return this.#inTurn(async () => {
      for (let at = 0; at < from.length; ) {
        const within = (offset + at) % CHUNK;
        const count = Math.min(CHUNK - within, from.length - at);
        await this.#put((offset + at - within) / CHUNK, within, from.subarray(at, at + count));
        at += count;
      }
    });
  }

  protected override doWriteZeroes(offset: number, length: number): Promise<void> {
    return this.#inTurn(async () => {
      const end = offset + length;
      const first = Math.ceil(offset / CHUNK) * CHUNK;
      const last = end === this.size ? end : Math.floor(end / CHUNK) * CHUNK;
      if (last <= first) return this.#putZeroes(offset, end);
      await this.#putZeroes(offset, first);
      await this.#putZeroes(last, end);
      for (const chunk of this.#chunks.keys()) {
        if (chunk * CHUNK >= first && chunk * CHUNK < last) this.#chunks.delete(chunk);
      }
      this.#zeroes.add(first, last);
    });
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.doWriteZeroes(offset, length);
  }

  protected override doFlush(): Promise<void> {
    return done;
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    yield { offset, length, kind: "data" };
  }

  async #putZeroes(from: number, to: number): Promise<void> {
    for (let at = from; at < to; ) {
      const end = Math.min(to, (Math.floor(at / CHUNK) + 1) * CHUNK);
      await this.#put(Math.floor(at / CHUNK), at % CHUNK, Buffer.alloc(end - at));
      at = end;
    }
  }

  async #put(index: number, within: number, bytes: Buffer): Promise<void> {
    const length = Math.min(CHUNK, this.size - index * CHUNK);
    if (bytes.length === length && isZero(bytes)) {
      this.#chunks.delete(index);
      this.#zeroes.add(index * CHUNK, index * CHUNK + length);
      return;
    }
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      if ((this.#chunks.size + 1) * CHUNK > this.#limit) throw this.#full();
      chunk = Buffer.alloc(length);
      if (bytes.length < length) await this.doRead(index * CHUNK, chunk);
      this.#chunks.set(index, chunk);
    }
    bytes.copy(chunk, within);
  }

  #isZero(start: number): boolean {
    for (const _ of this.#zeroes.within(start, start + 1)) return true;
    return false;
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    this.#written = true;
    return this.#turns.pass(work);
  }

  #full(): BlockIoError {
    return new BlockIoError(`more than ${this.#limit} bytes would have to be kept in memory`, {
      code: "ENOMEM",
      device: this.name,
      op: "write",
    });
  }
}
