/** Sectors that a disk does not give; writing one mends it, as it does on disks, or fails as well. */
import type { HandDisk } from "./hand.ts";

const SECTOR = 512;

/** @param offsets bytes at which the sectors begin. */
export function spoilSectors(disk: HandDisk, offsets: readonly number[], alsoWrites = false): void {
  let bad = offsets;
  disk.refuse = ({ op, offset, length }) => {
    const touched = (at: number): boolean => offset < at + SECTOR && at < offset + length;
    if (op === "write" && !alsoWrites) bad = bad.filter((at) => !touched(at));
    return (op === "read" || op === "write") && bad.some(touched);
  };
}
