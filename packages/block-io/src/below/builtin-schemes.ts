/** The URI schemes that every program knows. */
import { parseSize } from "../bytes/size.ts";
import { refuse } from "../contract/errors.ts";
import { MemoryDevice } from "../devices/memory.ts";
import { ZeroDevice } from "../devices/zero.ts";
import type { DeviceSchemes } from "./schemes.ts";

// What `null:` without a size has: the most a table can map, in whole 4 KiB blocks.
const LARGEST = 2 ** 53 - 4096;

/** `mem:64M` is a RAM disk, `null:1G` (or `null:`) reads as zeroes and forgets writes. */
export const builtinSchemes: DeviceSchemes = {
  async mem(reference) {
    return new MemoryDevice(wholeSectors(reference, parseSize(afterColon(reference))), { name: reference });
  },
  async null(reference) {
    const text = afterColon(reference);
    return new ZeroDevice(wholeSectors(reference, text === "" ? LARGEST : parseSize(text)), reference);
  },
};

function afterColon(reference: string): string {
  return reference.slice(reference.indexOf(":") + 1);
}

function wholeSectors(reference: string, size: number): number {
  if (size > 0 && size % 512 === 0) return size;
  throw refuse(
    reference,
    "EPARSE",
    `${size} bytes are not a positive number of 512-byte sectors`,
    "Give a size such as 64M.",
  );
}
