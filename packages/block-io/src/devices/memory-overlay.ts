/**
 * A device that keeps what is written to it in memory, over one that is only read. For opening read-only what has to be
 * recovered first, and for trying out what may not be wanted: the work is done as always, and changes nothing but memory,
 * which is forgotten at close. A block is, in this order: what was written, zero, what is below.
 *
 * Invariant: the device below is never written to, flushed or closed.
 */
import { isZero } from "../bytes/bytes.ts";
import { RangeSet } from "../bytes/range-set.ts";
import { ZERO_CHUNK, zeroes } from "../bytes/zeroes.ts";
import { type BlockDevice, done, plainCapabilities } from "../contract/device.ts";
import { BlockIoError } from "../contract/errors.ts";
import { GuardedDevice } from "../contract/guard.ts";

/** Bytes of what is kept at most, unless told otherwise: what recoveries write is far less. */
const MOST = 1024 * 1024 * 1024;
const OPEN_FOR_WRITING =
  "Open it for writing once, or repair it offline: that makes the changes for good, and needs no memory.";
/** Bytes: zeroes of such a length are kept as a range. */
const LONG = 64 * 1024;

/** Keeps what is written in memory, over a device that is only read. `ENOMEM` where that is too much. */
export class MemoryOverlay extends GuardedDevice {
  readonly #below: BlockDevice;
  /** Bytes of a block. */
  readonly #block: number;
  readonly #most: number;
  readonly #hint: string;
  /** What was written, by number of block. */
  readonly #written: Map<number, Buffer> = new Map();
  /** What was zeroed; blocks in it may have been written since. */
  readonly #zeroes = new RangeSet();

  /** @param most bytes of memory; what needs more fails with `ENOMEM`. @param hint what to do then. */
  constructor(below: BlockDevice, most: number = MOST, hint: string = OPEN_FOR_WRITING) {
    const capabilities = { ...plainCapabilities, writeZeroes: "native", fastZero: true } as const;
    super(below.name, below.size, { ...below.limits, capabilities });
    this.#below = below;
    this.#block = below.limits.logicalBlockSize;
    this.#most = most;
    this.#hint = hint;
  }

  /** Bytes that are kept in memory. */
  get bytes(): number {
    return this.#written.size * this.#block;
  }

  /** Whether anything was written. */
  get isChanged(): boolean {
    return this.#written.size > 0 || !this.#zeroes.isEmpty;
  }

  /** What was written: bytes and contents. What comes later counts where they overlap. */
  *changes(): Iterable<{ readonly offset: number; readonly bytes: Buffer }> {
    for (const { offset, length } of this.#zeroes.within(0, this.size)) {
      for (let at = 0; at < length; at += ZERO_CHUNK)
        yield { offset: offset + at, bytes: zeroes(length - at) };
    }
    for (const [block, bytes] of this.#written) yield { offset: block * this.#block, bytes };
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    const first = offset / this.#block;
    const end = (offset + into.length) / this.#block;
    const zeroed = [...this.#zeroes.within(offset, offset + into.length)];
    // What is zeroed as a whole is not asked for: the device below may not even give it.
    const isZeroed = zeroed[0]?.length === into.length;
    if (!isZeroed && !this.#isWritten(first, end)) await this.#below.read(offset, into);
    for (const zero of zeroed) into.fill(0, zero.offset - offset, zero.offset - offset + zero.length);
    if (this.#written.size === 0) return;
    for (let block = first; block < end; block += 1)
      this.#written.get(block)?.copy(into, block * this.#block - offset);
  }

  /** Whether all of these blocks were. */
  #isWritten(first: number, end: number): boolean {
    if (this.#written.size === 0) return false;
    for (let block = first; block < end; block += 1) if (!this.#written.has(block)) return false;
    return true;
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    if (from.length >= LONG && isZero(from)) return this.doWriteZeroes(offset, from.length);
    for (let at = 0; at < from.length; at += this.#block) {
      const block = (offset + at) / this.#block;
      const data = from.subarray(at, at + this.#block);
      const known = this.#written.get(block);
      if (known !== undefined) data.copy(known);
      else if (this.bytes + this.#block <= this.#most) this.#written.set(block, Buffer.from(data));
      else return Promise.reject(this.#full(offset, from.length));
    }
    return done;
  }

  protected override doWriteZeroes(offset: number, length: number): Promise<void> {
    const [first, end] = [offset / this.#block, (offset + length) / this.#block];
    if (this.#written.size < end - first) {
      for (const block of this.#written.keys())
        if (block >= first && block < end) this.#written.delete(block);
    } else for (let block = first; block < end; block += 1) this.#written.delete(block);
    this.#zeroes.add(offset, offset + length);
    return done;
  }

  protected override doFlush(): Promise<void> {
    return done;
  }

  protected override async doClose(): Promise<void> {
    this.#written.clear();
  }

  #full(offset: number, length: number): BlockIoError {
    return new BlockIoError(`more than ${this.#most} bytes have changed in memory`, {
      code: "ENOMEM",
      device: this.name,
      op: "write",
      offset,
      length,
      hint: this.#hint,
    });
  }
}

/** Whether nothing may be written to one of these devices. */
export function anyReadOnly(devices: readonly (BlockDevice | undefined)[]): boolean {
  return devices.some((device) => device?.limits.capabilities.readOnly === true);
}
