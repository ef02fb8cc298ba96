/**
 * Decisions that data hangs on: what has to be stable before what, and what the map is told. A stack gets them when it is
 * opened; the simulation opens others with one of them changed, and has to notice.
 */
import type { Sample } from "../format/samples.ts";
import type { OwnerMap } from "./owner-map.ts";

/** `snapshot` of the dirty pages, flush of the `data`, the `bits` of the snapshot to the bitmap device, its `flush`. */
export type CommitStep = "snapshot" | "data" | "bits" | "flush";

/**
 * `down`: what a layer holds into what it lies on, stable; `up`: what it holds and the layer above lacks into that, stable;
 * `link`: the layer above names what it lay on as its parent, stable.
 */
export type MergeStep = "down" | "up" | "link";

export interface CowRules {
  /** The map says that the top has a sector only after a write of it has resolved. */
  readonly awaitsData: boolean;
  /** Gives the top what was written to it; whether any of it is new there. */
  mark(map: OwnerMap, sector: number, count: number): boolean;
  /** Where the owner of a sector has it. @param first sector of the request. */
  placeOf(sector: number, first: number): number;
  /** Whether the top has a range, and will have it after a crash. */
  isStable(map: OwnerMap, sector: number, count: number): boolean;
  /** Whether one of these sectors is sampled: its data is known by them, and must not change unnoticed. */
  covers(samples: readonly Sample[], sector: number, count: number): boolean;
  /** What brings bits to stable storage; in this order. */
  readonly commit: readonly CommitStep[];
  /** The top layer's bits of a page, as they are now. */
  image(map: OwnerMap, page: number, into: Uint8Array, at: number): void;
  /** Bits that a commit has not made stable are for the next one. */
  readonly staysDirty: boolean;
  /** What commits a layer below the top; in this order. */
  readonly merge: readonly MergeStep[];
  /** What deletes a snapshot; in this order. Never `down`: what lies below shows another snapshot, or is a base of others. */
  readonly remove: readonly MergeStep[];
  /** Whether nobody writes to a part of the top while something is copied into it. */
  readonly excludes: boolean;
  /** A new layer on top has nothing. */
  push(map: OwnerMap): void;
}

export const cowRules: CowRules = Object.freeze<CowRules>({
  awaitsData: true,
  mark: (map, sector, count) => map.markWritten(sector, count),
  placeOf: (sector) => sector,
  isStable: (map, sector, count) => map.isStable(sector, count),
  covers: (samples, sector, count) =>
    samples.some((one) => one.sector >= sector && one.sector < sector + count),
  commit: ["snapshot", "data", "bits", "flush"],
  image: (map, page, into, at) => map.image(page, into, at),
  staysDirty: true,
  merge: ["down", "link"],
  remove: ["up", "link"],
  excludes: true,
  push: (map) => void map.push(),
});
