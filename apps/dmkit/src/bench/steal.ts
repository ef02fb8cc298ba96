/**
 * How much of the processors a virtual machine's host gave to others while something was measured.
 *
 * A server that keeps two processors busy loses more by it than one that mostly waits for locks, so the ratio of
 * the two says nothing then. On hardware of one's own the share is always 0.
 */
import { readFileSync } from "node:fs";

/** What was measured, and the share of processor time that was taken meanwhile, 0 to 1. */
export interface Sample {
  readonly value: number;
  readonly stolen: number;
}

// A share up to this changes ratios by less than runs differ anyway.
const TOLERATED = 0.03;
const ATTEMPTS = 4;

/**
 * Measures until the host took next to nothing meanwhile, four times at most, and answers the calmest of them.
 * @param again called with the share that was taken before another attempt.
 */
export async function measureCalmly(
  measure: () => Promise<number>,
  again: (stolen: number) => void,
  ticks: () => Ticks = readTicks,
): Promise<Sample> {
  let calmest: Sample | undefined;
  for (let attempt = 1; ; attempt += 1) {
    const before = ticks();
    const value = await measure();
    const stolen = shareStolen(before, ticks());
    if (calmest === undefined || stolen < calmest.stolen) calmest = { value, stolen };
    if (calmest.stolen <= TOLERATED || attempt === ATTEMPTS) return calmest;
    again(stolen);
  }
}

/** Processor time since the machine was started, in any unit. */
export interface Ticks {
  readonly all: number;
  readonly stolen: number;
}

function shareStolen(before: Ticks, after: Ticks): number {
  return after.all > before.all ? (after.stolen - before.stolen) / (after.all - before.all) : 0;
}

/** From the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. Zeroes elsewhere. */
function readTicks(): Ticks {
  let line = "";
  try {
    [line = ""] = readFileSync("/proc/stat", "utf8").split("\n");
  } catch {
    // Not Linux: nothing is known of a host.
  }
  return parseTicks(line);
}

/** @param line `cpu  10 0 5 100 2 0 0 3 0 0`. */
export function parseTicks(line: string): Ticks {
  const [name, ...figures] = line.trim().split(/\s+/);
  const ticks = figures.slice(0, 8).map(Number);
  if (name !== "cpu" || ticks.length < 8 || ticks.some(Number.isNaN)) return { all: 0, stolen: 0 };
  return { all: ticks.reduce((sum, one) => sum + one, 0), stolen: ticks[7] as number };
}
