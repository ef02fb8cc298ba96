/**
 * A device that keeps what is written to it in memory, over one that is only read: what is read is the newest of
 * both. For opening read-only what has to be recovered first: the recovery runs as it always does, and changes
 * nothing but memory, which is forgotten at close.
 *
 * Invariant: the device below is never written to, flushed or closed.
 */
import { type BlockDevice, done, plainCapabilities } from "../contract/device.ts";
import { BlockIoError } from "../contract/errors.ts";
import { GuardedDevice } from "../contract/guard.ts";

/** Bytes of what is kept at most, unless told otherwise: what recoveries write is far less. */
const MOST = 1024 * 1024 * 1024;

/** Keeps what is written in memory, over a device that is only read. `ENOMEM` where that is too much. */
export class MemoryOverlay extends GuardedDevice {
  readonly #below: BlockDevice;
  /** Bytes of a block. */
  readonly #block: number;
  readonly #most: number;
  /** What was written, by number of block. */
  readonly #written: Map<number, Buffer> = new Map();

  /** @param most bytes of memory; what needs more fails with `ENOMEM`. */
  constructor(below: BlockDevice, most: number = MOST) {
    super(below.name, below.size, { ...below.limits, capabilities: plainCapabilities });
    this.#below = below;
    this.#block = below.limits.logicalBlockSize;
    this.#most = most;
  }

  /** Bytes that are kept in memory. */
  get bytes(): number {
    return this.#written.size * this.#block;
  }

  /** What was written: bytes and contents, in no order. */
  *changes(): Iterable<{ readonly offset: number; readonly bytes: Buffer }> {
    for (const [block, bytes] of this.#written) yield { offset: block * this.#block, bytes };
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    const first = offset / this.#block;
    const end = (offset + into.length) / this.#block;
    let isMissing = this.#written.size === 0;
    for (let block = first; block < end && !isMissing; block += 1) isMissing = !this.#written.has(block);
    if (isMissing) await this.#below.read(offset, into);
    if (this.#written.size === 0) return;
    for (let block = first; block < end; block += 1)
      this.#written.get(block)?.copy(into, block * this.#block - offset);
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
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
      hint: "Open it for writing once, or repair it offline: that makes the changes for good.",
    });
  }
}

/** Whether nothing may be written to one of these devices. */
export function anyReadOnly(devices: readonly (BlockDevice | undefined)[]): boolean {
  return devices.some((device) => device?.limits.capabilities.readOnly === true);
}
