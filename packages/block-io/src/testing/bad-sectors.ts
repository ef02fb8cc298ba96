/** A disk with sectors that it does not give. */
import { SECTOR, type WriteZeroesOptions } from "../contract/device.ts";
import { MemoryDevice } from "../devices/memory.ts";

/** A memory device some sectors of which are `EIO`, as a system says it, and so is each request that touches one. */
export class BadSectors extends MemoryDevice {
  /** Sectors that cannot be read. */
  readonly bad: Set<number> = new Set();
  /** Whether writing one mends it, as it does on disks; else that fails as well. */
  heals = true;
  /** Whether they can be read all the same: then only writes fail. */
  gives = false;
  /** The sectors that were read, while anybody wants to know. */
  seen: Set<number> | undefined;

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (!this.gives) this.#look(offset, into.length);
    if (this.seen !== undefined)
      for (let at = 0; at < into.length; at += SECTOR) this.seen.add((offset + at) / SECTOR);
    return super.doRead(offset, into);
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    this.#overwrite(offset, from.length);
    return super.doWrite(offset, from);
  }

  protected override doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    this.#overwrite(offset, length);
    return super.doWriteZeroes(offset, length, options);
  }

  #overwrite(offset: number, length: number): void {
    if (!this.heals) this.#look(offset, length);
    for (let at = 0; at < length; at += SECTOR) this.bad.delete((offset + at) / SECTOR);
  }

  #look(offset: number, length: number): void {
    for (const sector of this.bad)
      if (sector * SECTOR >= offset && sector * SECTOR < offset + length)
        throw Object.assign(new Error("a bad sector"), { code: "EIO", syscall: "read" });
  }
}
