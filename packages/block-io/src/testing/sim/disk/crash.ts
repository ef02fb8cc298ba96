/**
 * Which pending sectors survive a crash: everything the persistence contract allows is tried with some
 * probability, and some patterns that break formats more often than they should.
 *
 * The sectors that may land are counted from 0, disk by disk, write by write (completed ones in order of
 * completion, then those in flight), sector by sector. Those numbers are what a reduced run names when it says
 * what was lost.
 */
import { SECTOR } from "../../../contract/device.ts";
import type { PendingWrite, SimDisk } from "./disk.ts";
import type { Prng } from "../prng.ts";

export const biases = [
  "uniform",
  "most",
  "few",
  "none",
  "all",
  "whole",
  "headers",
  "bodies",
  "prefix",
  "one-lost",
  "one-landed",
] as const;

/**
 * `uniform`, `most`, `few`: each sector by itself, 50, 90 or 10 %. `whole`: writes are not torn. `headers`: only
 * the first sector of each write; `bodies`: all but those. `prefix`: everything up to some sector of the order
 * of completion. `one-lost`, `one-landed`: all or nothing but for one sector.
 */
export type Bias = (typeof biases)[number];

/**
 * Either a pattern of chance, or the numbers of the sectors that are lost while all others land. `kill`: only the
 * process ends. What it wrote can be read, and is as unstable as it was: the next crash may lose it.
 */
export type Survivors = Bias | "kill" | { readonly lost: readonly number[] };

/** What a crash did. */
export interface CrashReport {
  /** Sectors that could have been lost. */
  readonly candidates: number;
  /** Numbers of those that were. */
  readonly lost: readonly number[];
  /** It was not the power that failed: nothing has become stable, and nothing is lost yet. */
  readonly killed?: boolean;
}

export function drawBias(random: Prng): Bias {
  return biases[random.weighted([5, 2, 2, 2, 1, 2, 1, 1, 2, 1, 1])] as Bias;
}

/** Cuts the power of all disks, or kills the process that uses them. */
export function crashDisks(disks: readonly SimDisk[], survivors: Survivors, random: Prng): CrashReport {
  const candidates = countCandidates(disks);
  if (survivors === "kill") {
    for (const disk of disks) disk.kill(random);
    return { candidates, lost: [], killed: true };
  }
  const lands = decide(survivors, random, candidates, disks);
  const lost: number[] = [];
  let number = 0;
  for (const disk of disks) {
    disk.crash((write, sector) => {
      const landed = lands(number, disk, write, sector);
      if (!landed) lost.push(number);
      number += 1;
      return landed;
    });
  }
  return { candidates, lost };
}

/** How many sectors may be lost if the power fails now. */
export function countCandidates(disks: readonly SimDisk[]): number {
  let count = 0;
  for (const disk of disks) {
    for (const write of disk.pending) {
      const first = write.offset / SECTOR;
      for (let sector = first; sector < first + write.length / SECTOR; sector += 1) {
        if (disk.mayLand(write, sector)) count += 1;
      }
    }
  }
  return count;
}

type Decision = (number: number, disk: SimDisk, write: number, sector: number) => boolean;

function decide(
  survivors: Exclude<Survivors, "kill">,
  random: Prng,
  candidates: number,
  disks: readonly SimDisk[],
): Decision {
  if (typeof survivors !== "string") {
    const lost = new Set(survivors.lost);
    return (number) => !lost.has(number);
  }
  switch (survivors) {
    case "uniform":
      return () => random.chance(0.5);
    case "most":
      return () => random.chance(0.9);
    case "few":
      return () => random.chance(0.1);
    case "none":
      return () => false;
    case "all":
      return () => true;
    case "whole": {
      const writes = disks.map((disk) => disk.pending.map(() => random.chance(0.5)));
      return (_, disk, write) => writes[disk.index]?.[write] === true;
    }
    case "headers":
      return (_, disk, write, sector) => firstSector(disk, write) === sector;
    case "bodies":
      return (_, disk, write, sector) => firstSector(disk, write) !== sector;
    case "prefix": {
      const ends = random.below(candidates + 1);
      return (number) => number < ends;
    }
    case "one-lost": {
      const one = random.below(candidates);
      return (number) => number !== one;
    }
    case "one-landed": {
      const one = random.below(candidates);
      return (number) => number === one;
    }
  }
}

function firstSector(disk: SimDisk, write: number): number {
  return (disk.pending[write] as PendingWrite).offset / SECTOR;
}
