/**
 * Walks over what a stack shows: its holes, and which layer each part of a range comes from, as NBD clients can ask for it:
 * `dmkit:layer`, counted from 0, and `qemu:allocation-depth`, counted from 1 as qemu does.
 */
import { type Extent, type RangeDescription, SECTOR } from "@dmkit/block-io";
import type { Counters } from "./counters.ts";
import type { Source } from "./parts.ts";

export interface Depth {
  /** Bytes. */
  readonly length: number;
  /** Layers below the top; the base counts as one layer more. */
  readonly depth: number;
}

/** Sectors of one owner, to `until`. */
export interface KnownRun {
  readonly until: number;
  /** Layers below the top. */
  readonly depth: number;
  readonly source: Source;
  /** All there are; others once the layers have changed. */
  readonly sources: readonly Source[];
}

/** @param knownRun the run of one owner that starts at a sector, which is made known first. */
export async function* depthsOf(
  offset: number,
  length: number,
  knownRun: (sector: number, end: number) => Promise<KnownRun>,
): AsyncIterable<Depth> {
  let sector = offset / SECTOR;
  const end = (offset + length) / SECTOR;
  while (sector < end) {
    const { until, depth } = await knownRun(sector, end);
    yield { length: (until - sector) * SECTOR, depth };
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

/** The extents of a range in bytes, which layers may be put on, or taken out of, meanwhile. Errors: those of the devices. */
export async function* extentsOf(
  now: {
    readonly sources: readonly Source[];
    knownRun(sector: number, end: number, counters: Counters): Promise<KnownRun>;
  },
  counters: Counters,
  offset: number,
  length: number,
): AsyncIterable<Extent> {
  const end = (offset + length) / SECTOR;
  for (let sector = offset / SECTOR; sector < end; ) {
    const { until, source, sources } = await now.knownRun(sector, end, counters);
    const { device, offset: start } = source;
    try {
      for await (const extent of device.extents(start + sector * SECTOR, (until - sector) * SECTOR)) {
        yield { offset: extent.offset - start, length: extent.length, kind: extent.kind };
        sector = (extent.offset - start + extent.length) / SECTOR;
      }
      sector = until;
    } catch (error) {
      // A layer that was merged meanwhile is closed: what it had is elsewhere.
      if (sources === now.sources) throw error;
    }
  }
}
