/**
 * What the users of a device do: random requests, from single sectors to 256 KiB, overlapping, with hot spots,
 * some of them FUA, with flushes, discards and zeroes between them.
 *
 * Operations are drawn before the generation starts, from their own stream of random numbers: leaving one out
 * changes nothing about the others.
 */
import type { BlockDevice } from "../../../contract/device.ts";
import type { Prng } from "../prng.ts";
import type { WorkloadBounds } from "../target.ts";

export interface Operation {
  /** Its number in the run, from 1; also the version of what it writes. */
  readonly id: number;
  readonly kind: "read" | "write" | "flush" | "discard" | "zeroes" | "suspend" | "extents";
  /** Bytes; 0 where the kind has no range. */
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
}

/** How busy a generation is, and in which way. */
export interface Profile {
  readonly operations: number;
  /** Requests in flight, at most: 1 … 16. */
  readonly concurrency: number;
  /** How eagerly new requests are submitted while others are in flight: 0 … 1. */
  readonly eagerness: number;
  /** How likely a timer fires while something else could happen: 0 … 1. */
  readonly haste: number;
  /** Weights: read, write, FUA write, flush, discard, zeroes, suspend, extents. */
  readonly mix: readonly number[];
  /** Bytes of the largest request. */
  readonly transfer: number;
  /** Share of requests that go to the hot spot: 0 … 1. */
  readonly heat: number;
  readonly order: CompletionOrder;
}

/**
 * Which lower request completes next. `first`: the one issued first. `last`: mostly the one issued last.
 * `starve`: any, but one chosen request is kept back for a long time, then another.
 */
export type CompletionOrder = "random" | "first" | "last" | "starve";

const kinds = ["read", "write", "write", "flush", "discard", "zeroes", "suspend", "extents"] as const;

const mixes: readonly (readonly number[])[] = [
  [3, 6, 1, 1, 0.5, 0.5, 0.1, 0.1],
  [1, 8, 0, 1, 0, 0, 0, 0],
  [1, 4, 4, 1, 0, 0.5, 0, 0],
  [2, 4, 0, 4, 0, 0, 0.2, 0],
  [2, 4, 1, 1, 2, 2, 0.1, 0.5],
  [6, 4, 0, 0.3, 0, 0, 0, 0],
];

export function drawProfile(random: Prng, bounds: WorkloadBounds = {}): Profile {
  const most = bounds.operations ?? 40;
  return {
    operations: random.chance(0.7) ? random.between(1, Math.ceil(most / 3)) : random.between(1, most),
    concurrency: random.pick([1, 1, 2, 3, 4, 8, 16]),
    eagerness: random.pick([0.15, 0.3, 0.5, 0.8]),
    haste: random.pick([0, 0, 0.02, 0.2]),
    mix: random.pick(mixes as [readonly number[]]),
    transfer: Math.min(
      bounds.transfer ?? 256 * 1024,
      random.pick([512, 4096, 4096, 16_384, 65_536, 262_144]),
    ),
    heat: random.pick([0, 0.5, 0.9]),
    order: random.pick(["random", "random", "random", "last", "starve"]),
  };
}

/** Operations on `device`, numbered from `id`. */
export function drawOperations(random: Prng, device: BlockDevice, profile: Profile, id: number): Operation[] {
  const block = device.limits.logicalBlockSize;
  const blocks = device.size / block;
  const hot = random.below(blocks);
  const spread = 1 + random.below(Math.min(blocks, 16));
  const place = (length: number): number => {
    const room = blocks - length;
    const wanted = random.chance(profile.heat) ? hot + random.below(spread) : random.below(room + 1);
    // Half of the requests are aligned to what stores are made of: 4 KiB blocks, or their own size.
    const grain = random.chance(0.5) ? 1 : random.chance(0.5) ? 4096 / block : length;
    return Math.floor(Math.min(wanted, room) / grain) * grain;
  };
  const size = (): number => {
    const most = Math.max(1, Math.min(blocks, Math.floor(profile.transfer / block)));
    const length = 2 ** random.below(32 - Math.clz32(most));
    return Math.min(most, random.chance(0.3) ? length + random.below(length) : length);
  };
  return Array.from({ length: profile.operations }, (_, index) => {
    const which = random.weighted(profile.mix);
    const kind = kinds[which] as Operation["kind"];
    const length = size();
    const offset = place(length);
    const fua = which === 2 || (kind === "zeroes" && random.chance(0.2));
    const ranged = kind !== "flush" && kind !== "suspend";
    return {
      id: id + index,
      kind,
      offset: ranged ? offset * block : 0,
      length: ranged ? length * block : 0,
      fua,
    };
  });
}

export function describeOperation({ id, kind, offset, length, fua }: Operation): string {
  const where = length === 0 ? "" : ` ${offset / 512}+${length / 512}`;
  return `op ${id}: ${kind}${where}${fua ? " fua" : ""}`;
}
