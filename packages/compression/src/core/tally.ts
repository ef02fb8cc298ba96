/** What is stored, counted: of a running device, and of an image that nobody serves. */
import { BLOCK, BLOCK_SECTORS, payloadBytes } from "../format/geometry-v1.ts";
import { type ExtentMap, LOST, type StoredExtent } from "./extent-map.ts";
import { isRaw } from "./plan.ts";

/** Extents and blocks by what they are. */
export interface Tally {
  /** Blocks that are not stored. */
  holes: number;
  /** Blocks whose contents are gone, as far as the metadata says. */
  lost: number;
  /** Extents, by how they are stored. */
  raw: number;
  compressed: number;
  /** Bytes of all payloads. */
  payload: number;
  /** Blocks by sectors of payload attributed to them, 0 … 8. */
  histogram: number[];
}

export function newTally(): Tally {
  const histogram = Array.from({ length: BLOCK_SECTORS + 1 }, () => 0);
  return { holes: 0, lost: 0, raw: 0, compressed: 0, payload: 0, histogram };
}

/** All extents in order; blocks whose metadata makes no sense come one by one, as `bad`. The map may change meanwhile. */
export function* extentsOf(map: ExtentMap): Iterable<StoredExtent> {
  for (let block = 0; block < map.blocks; ) {
    const extent = map.find(block);
    if (extent.bad) {
      yield { head: block, blocks: 1, sectors: 0, bad: true };
      block += 1;
    } else {
      yield extent;
      block = extent.head + extent.blocks;
    }
  }
}

export function countExtent(map: ExtentMap, extent: StoredExtent, tally: Tally): void {
  const { head, blocks, sectors, bad } = extent;
  if (bad) tally.lost += blocks;
  else if (sectors === 0) tally.holes += blocks;
  else if (isRaw(extent)) tally.raw += 1;
  else tally.compressed += 1;
  if (bad) return;
  tally.payload += payloadBytes(sectors);
  for (let index = 0; index < blocks; index += 1) {
    const own = (map.states[head + index] as number) & LOST;
    tally.histogram[own] = (tally.histogram[own] ?? 0) + 1;
  }
}

/** By name. `payload_percent`: of the bytes that are stored, with one digit behind the point. */
export function tallyFacts(
  { blocks: all }: ExtentMap,
  { holes, lost, raw, compressed, payload, histogram }: Tally,
): Readonly<Record<string, number>> {
  const stored = all - holes - lost;
  return {
    stored_blocks: stored,
    hole_blocks: holes,
    lost_blocks: lost,
    raw_extents: raw,
    compressed_extents: compressed,
    payload_bytes: payload,
    saved_bytes: stored * BLOCK - payload,
    payload_percent: stored === 0 ? 0 : Math.round((payload / (stored * BLOCK)) * 1000) / 10,
    ...Object.fromEntries(
      histogram.flatMap((blocks, sectors) => {
        const own = sectors === 0 ? blocks - holes : blocks;
        return [[`blocks_saving_${payloadBytes(BLOCK_SECTORS - sectors)}_bytes`, own]];
      }),
    ),
  };
}
