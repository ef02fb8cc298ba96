/** A disk whose power fails at a write of one's choice; what was not flushed by then survives by chance. */
import { SECTOR, done, plainLimits } from "../contract/device.ts";
import { MemoryDevice } from "../devices/memory.ts";
import { refuse } from "../contract/errors.ts";
import { GuardedDevice } from "../contract/guard.ts";
import type { SeededRandom } from "./random.ts";

export class PowerCut extends GuardedDevice {
  /** Writes so far, the one at which the power failed included. */
  writes = 0;
  readonly #stable: Buffer;
  readonly #current: Buffer;
  #pending: { readonly offset: number; readonly bytes: Buffer }[] = [];
  readonly #limit: number;

  /** @param limit the power fails during this write, counted from 1; 0: never. */
  constructor(contents: Buffer, limit: number, logicalBlockSize: 512 | 4096 = SECTOR) {
    super("power-cut", contents.length, { ...plainLimits, logicalBlockSize });
    this.#stable = Buffer.from(contents);
    this.#current = Buffer.from(contents);
    this.#limit = limit;
  }

  /** Whether the power has failed. */
  get isOff(): boolean {
    return this.#limit !== 0 && this.writes >= this.#limit;
  }

  /** The disk when the power is back: of each block that was not flushed the old or a new version. */
  survivor(random: SeededRandom): MemoryDevice {
    const left = Buffer.from(this.#stable);
    const unit = this.limits.logicalBlockSize;
    const chance = random.below(5) / 4;
    for (const { offset, bytes } of this.#pending) {
      for (let at = 0; at < bytes.length; at += unit) {
        if (random.chance(chance)) bytes.copy(left, offset + at, at, at + unit);
      }
    }
    const device = new MemoryDevice(left.length);
    void device.write(0, left);
    return device;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (this.isOff) return this.#off("read");
    this.#current.copy(into, 0, offset, offset + into.length);
    return done;
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    if (this.isOff) return this.#off("write");
    this.writes += 1;
    this.#pending.push({ offset, bytes: Buffer.from(from) });
    if (this.isOff) return this.#off("write");
    from.copy(this.#current, offset);
    return fua ? this.doFlush() : done;
  }

  protected override doFlush(): Promise<void> {
    if (this.isOff) return this.#off("flush");
    for (const { offset, bytes } of this.#pending) bytes.copy(this.#stable, offset);
    this.#pending = [];
    return done;
  }

  #off(op: "read" | "write" | "flush"): Promise<void> {
    return Promise.reject(refuse(this.name, "EIO", "the power is off", undefined, op));
  }
}

/** All bytes of a device. */
export async function contentsOf(device: {
  size: number;
  read(at: number, into: Buffer): Promise<void>;
}): Promise<Buffer> {
  const bytes = Buffer.alloc(device.size);
  await device.read(0, bytes);
  return bytes;
}
