/** A disk with sectors that it does not give. */
import { BlockIoError } from "../contract/errors.ts";
import { SECTOR } from "../contract/device.ts";
import { MemoryDevice } from "../devices/memory.ts";

/** A memory device some sectors of which are `EIO`, as the whole request is that touches one. */
export class BadSectors extends MemoryDevice {
  /** Sectors that cannot be read. */
  readonly bad: Set<number> = new Set();
  /** Whether writing one mends it, as it does on disks; else that fails as well. */
  heals = true;

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    this.#look(offset, into.length);
    return super.doRead(offset, into);
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    if (!this.heals) this.#look(offset, from.length);
    for (let at = 0; at < from.length; at += SECTOR) this.bad.delete((offset + at) / SECTOR);
    return super.doWrite(offset, from);
  }

  #look(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += SECTOR)
      if (this.bad.has(at / SECTOR)) throw new BlockIoError("a bad sector", { code: "EIO" });
  }
}
