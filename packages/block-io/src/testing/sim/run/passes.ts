/** Operations that go over a whole device, in pieces of 64 KiB. */
import type { BlockDevice } from "../../../contract/device.ts";
import type { Prng } from "../prng.ts";
import type { Operation } from "./workload.ts";

const PIECE = 64 * 1024;

/** Reads everything, some of it, or nothing. They have no number: they write no version. */
export function verifyReads(size: number, amount: "all" | "some" | "none", random: Prng): Operation[] {
  const reads: Operation[] = [];
  for (let offset = 0; offset < size; offset += PIECE) {
    if (amount === "none" || (amount === "some" && random.chance(0.5))) continue;
    reads.push({ id: 0, kind: "read", offset, length: Math.min(PIECE, size - offset), fua: false });
  }
  return reads;
}

/** Reads everything. */
export function readAll(size: number): Operation[] {
  const count = Math.ceil(size / PIECE);
  return Array.from({ length: count }, (_, index) => {
    const offset = index * PIECE;
    return { id: 0, kind: "read", offset, length: Math.min(PIECE, size - offset), fua: false };
  });
}

/** Writes the first 4 MiB, flushes, and reads them back; numbered from `id`. */
export function rewriteAll({ size }: BlockDevice, id: number): Operation[] {
  const writes = readAll(Math.min(size, 64 * PIECE)).map(
    (read, index): Operation => ({ ...read, id: id + index, kind: "write" }),
  );
  const reads = writes.map((write): Operation => ({ ...write, kind: "read" }));
  return [...writes, { id: 0, kind: "flush", offset: 0, length: 0, fua: false }, ...reads];
}
