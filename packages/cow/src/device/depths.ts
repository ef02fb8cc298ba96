/**
 * Which layer each part of a range comes from, as NBD clients can ask for it: `dmkit:layer`, counted from 0, and
 * `qemu:allocation-depth`, counted from 1 as qemu does.
 */
import { type RangeDescription, SECTOR } from "@dmkit/block-io";
import type { OwnerMap } from "../core/owner-map.ts";

export interface Depth {
  /** Bytes. */
  readonly length: number;
  /** Layers below the top; the base counts as one layer more. */
  readonly depth: number;
}

/** @param knownRun the end of the run of one owner that starts at a sector, which is made known first. */
export async function* depthsOf(
  map: OwnerMap,
  offset: number,
  length: number,
  knownRun: (sector: number, end: number) => Promise<number>,
): AsyncIterable<Depth> {
  let sector = offset / SECTOR;
  const end = (offset + length) / SECTOR;
  while (sector < end) {
    const until = await knownRun(sector, end);
    yield { length: (until - sector) * SECTOR, depth: map.top - map.owner(sector) };
    sector = until;
  }
}

export function layerDescriptions(
  depths: (offset: number, length: number) => AsyncIterable<Depth>,
): RangeDescription[] {
  const counted = (name: string, top: number): RangeDescription => ({
    name,
    otherwise: top,
    async *describe(offset, length) {
      for await (const { length: run, depth } of depths(offset, length))
        yield { length: run, status: top + depth };
    },
  });
  return [counted("dmkit:layer", 0), counted("qemu:allocation-depth", 1)];
}
