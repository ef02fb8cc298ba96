/**
 * How many slots the ring has on a cache device whose length does not tell, because it was made larger or smaller, and
 * whose identity record does not either. Segment id i lives in slot (i - 1) mod N, so N divides id - 1 - slot of every
 * segment: after the ring has come round once that leaves few numbers, and the log leaves one.
 */
import { geometryWith } from "../format/geometry.ts";
import type { Rules } from "./rules.ts";

// Laps of the ring, of those that make sense.
const MOST_LAPS = 1_000_000;

/** What the heads of the slots say. */
export interface Claims {
  /** By slot: the id its head claims, whether or not it may be there; 0 for none. */
  readonly ids: Float64Array;
  readonly order: number;
  /** last_writeback_segment_id of the superblock record. */
  readonly record: number;
}

/** Numbers of slots that are there, explain every id, and with which the log is whole; smallest first. */
export function ringsOf(claims: Claims, find: Rules["findLog"]): number[] {
  const there = divisorsOf(claims).filter((slots) => slots <= claims.ids.length);
  return there.filter((slots) => isWhole(claims, slots, find)).toReversed();
}

/** The smallest ring that explains every id; undefined if there is none. */
export function smallestRing(claims: Claims): number | undefined {
  return divisorsOf(claims).at(-1);
}

/** Largest first. */
function divisorsOf({ ids }: Claims): number[] {
  let common = 0;
  let highest = -1;
  for (let slot = 0; slot < ids.length; slot += 1) {
    const id = ids[slot] as number;
    if (id === 0) continue;
    highest = slot;
    common = divisor(common, Math.abs(id - 1 - slot));
  }
  const rings: number[] = [];
  for (let laps = 1; laps <= Math.min(MOST_LAPS, common / (highest + 1)); laps += 1) {
    if (common % laps === 0) rings.push(common / laps);
  }
  return rings;
}

/** Whether the log of a ring of `slots` slots leads up to the highest id. */
function isWhole({ ids, order, record }: Claims, slots: number, find: Rules["findLog"]): boolean {
  const claimed = new Float64Array(slots);
  claimed.set(ids.subarray(0, slots));
  const valid = Uint8Array.from(claimed, (id) => (id > 0 ? 1 : 0));
  const { tail } = geometryWith(order, slots);
  const { last, damage } = find({ ids: claimed, valid, tail, record, covered: 0 });
  return damage === undefined && last === ids.reduce((max, id) => Math.max(max, id), 0);
}

/** The greatest common divisor. */
function divisor(a: number, b: number): number {
  return b === 0 ? a : divisor(b, a % b);
}
