/**
 * Byte-granular I/O on a device of 512- or 4096-byte blocks: what the NBD server and the command line use to
 * serve requests of any alignment.
 *
 * Invariant: a read-modify-write never overwrites bytes that somebody else wrote after its read. So every
 * write, aligned or not, holds its range of blocks: aligned ones shared, read-modify-writes exclusively.
 */
import { type BlockDevice, type WriteOptions, type WriteZeroesOptions, done } from "../contract/device.ts";
import { BlockIoError, type Operation } from "../contract/errors.ts";
import { type RangeGrant, RangeLock } from "../sync/range-lock.ts";

/** Requests of any alignment on a device of blocks; those that are not aligned are read-modify-writes. */
export class ByteAccess {
  readonly device: BlockDevice;
  readonly #block: number;
  readonly #lock = new RangeLock();

  constructor(device: BlockDevice) {
    this.device = device;
    this.#block = device.limits.logicalBlockSize;
  }

  /** Whether a range needs no read-modify-write. */
  aligned(offset: number, length: number): boolean {
    return offset % this.#block === 0 && length % this.#block === 0;
  }

  read(offset: number, into: Buffer): Promise<void> {
    if (this.aligned(offset, into.length)) return this.device.read(offset, into);
    return this.#readUnaligned(offset, into);
  }

  write(offset: number, from: Buffer, options?: WriteOptions): Promise<void> {
    if (!this.aligned(offset, from.length)) return this.#writeUnaligned(offset, from, options);
    if (!this.#lock.isShared) {
      return this.#lock.with(offset, from.length, false, () => this.device.write(offset, from, options));
    }
    const result = this.device.write(offset, from, options);
    // What is over in this turn met nobody, and needs no place in the lock.
    if (result === done) return done;
    const grant = this.#lock.tryAcquire(offset, from.length, false);
    if (grant === undefined) throw new Error("unreachable: something exclusive came in the same turn");
    return this.#releasing(grant, result);
  }

  async writeZeroes(offset: number, length: number, options: WriteZeroesOptions = {}): Promise<void> {
    this.#check("writeZeroes", offset, length);
    const { start, end } = this.#inner(offset, length);
    if (options.fast) {
      // Nothing may have changed when this fails, so the part that can fail goes first and alone.
      if (start !== offset || end !== offset + length) {
        throw new BlockIoError("unaligned zeroes are not fast", {
          code: "ENOTSUP",
          device: this.device.name,
          op: "writeZeroes",
          offset,
          length,
        });
      }
    }
    if (end <= start) return this.#writeUnaligned(offset, Buffer.alloc(length), options);
    if (offset < start) await this.#writeUnaligned(offset, Buffer.alloc(start - offset), options);
    if (end < offset + length) await this.#writeUnaligned(end, Buffer.alloc(offset + length - end), options);
    await this.#lock.with(start, end - start, false, () =>
      this.device.writeZeroes(start, end - start, options),
    );
  }

  /** Discards the whole blocks of the range and leaves the rest as it is. */
  async discard(offset: number, length: number): Promise<void> {
    this.#check("discard", offset, length);
    const { start, end } = this.#inner(offset, length);
    if (end <= start) return;
    await this.#lock.with(start, end - start, false, () => this.device.discard(start, end - start));
  }

  async #readUnaligned(offset: number, into: Buffer): Promise<void> {
    this.#check("read", offset, into.length);
    if (into.length === 0) return;
    const { start, end } = this.#outer(offset, into.length);
    const blocks = Buffer.allocUnsafe(end - start);
    await this.device.read(start, blocks);
    blocks.copy(into, 0, offset - start, offset - start + into.length);
  }

  async #writeUnaligned(offset: number, from: Buffer, options?: WriteOptions): Promise<void> {
    this.#check("write", offset, from.length);
    if (from.length === 0) return;
    const { start, end } = this.#outer(offset, from.length);
    const block = this.#block;
    await this.#lock.with(start, end - start, true, async () => {
      const blocks = Buffer.allocUnsafe(end - start);
      // Only the first and the last block hold bytes to keep.
      await this.device.read(start, blocks.subarray(0, block));
      if (end - start > block) await this.device.read(end - block, blocks.subarray(end - start - block));
      blocks.set(from, offset - start);
      await this.device.write(start, blocks, options);
    });
  }

  async #releasing(grant: RangeGrant, result: Promise<void>): Promise<void> {
    try {
      await result;
    } finally {
      this.#lock.release(grant);
    }
  }

  #outer(offset: number, length: number): { start: number; end: number } {
    const block = this.#block;
    return { start: Math.floor(offset / block) * block, end: Math.ceil((offset + length) / block) * block };
  }

  #inner(offset: number, length: number): { start: number; end: number } {
    const block = this.#block;
    return { start: Math.ceil(offset / block) * block, end: Math.floor((offset + length) / block) * block };
  }

  #check(op: Operation, offset: number, length: number): void {
    const { size } = this.device;
    if (
      Number.isSafeInteger(offset) &&
      offset >= 0 &&
      offset <= size &&
      length >= 0 &&
      length <= size - offset
    )
      return;
    throw new BlockIoError(`past the end of the device (${size} bytes)`, {
      code: op === "write" || op === "writeZeroes" ? "ENOSPC" : "EINVAL",
      device: this.device.name,
      op,
      offset,
      length,
    });
  }
}
