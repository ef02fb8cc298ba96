/**
 * Where the bytes of a path come from. A file has many names (links, other paths, a loop device), and a disk is there
 * again as its partitions: two paths are the same bytes where they have the same origin and overlap there.
 */
import { type BigIntStats, readFileSync, statSync } from "node:fs";
import { SECTOR } from "../contract/device.ts";

export interface Origin {
  /** `file DEVICE:INODE`, or `disk MAJOR:MINOR`; the same for all that stand for it. */
  readonly name: string;
  /** Bytes: where it begins there. */
  readonly offset: number;
}

// A loop device over a partition of a loop device … nobody goes deeper.
const MAX_DEPTH = 8;

/** @param sys where Linux tells of its devices; tests have one of their own. */
export function originOf(stat: BigIntStats, sys = "/sys"): Origin {
  return descend(stat, sys, 0);
}

/** The same text for all that stand for the same bytes. */
export function textOf({ name, offset }: Origin): string {
  return `${name}+${offset}`;
}

/** That of a path; undefined if nothing is there. */
export function originAt(path: string, sys = "/sys"): Origin | undefined {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? undefined : originOf(stat, sys);
}

function descend(stat: BigIntStats, sys: string, depth: number): Origin {
  if (!stat.isBlockDevice()) return { name: `file ${stat.dev}:${stat.ino}`, offset: 0 };
  return blockOrigin(numbersOf(stat.rdev), sys, depth);
}

function blockOrigin(numbers: string, sys: string, depth: number): Origin {
  const folder = `${sys}/dev/block/${numbers}`;
  const whole: Origin = { name: `disk ${numbers}`, offset: 0 };
  if (depth === MAX_DEPTH) return whole;
  const start = text(`${folder}/start`);
  const disk = text(`${folder}/../dev`);
  if (text(`${folder}/partition`) !== undefined && start !== undefined && disk !== undefined) {
    const { name, offset } = blockOrigin(disk, sys, depth + 1);
    return { name, offset: offset + Number(start) * SECTOR };
  }
  const backing = text(`${folder}/loop/backing_file`);
  const below = backing === undefined ? undefined : statOf(backing);
  if (below === undefined) return whole;
  const { name, offset } = descend(below, sys, depth + 1);
  return { name, offset: offset + Number(text(`${folder}/loop/offset`) ?? 0) };
}

function statOf(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return undefined;
  }
}

function text(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}

/** `8:1`, as Linux writes a device number. */
function numbersOf(device: bigint): string {
  const major = (device >> 8n) & 0xfffn;
  const minor = (device & 0xffn) | ((device >> 12n) & 0xfff00n);
  return `${major}:${minor}`;
}
