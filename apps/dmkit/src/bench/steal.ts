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

/** Measures once. */
export async function sampled(
  measure: () => Promise<number>,
  ticks: () => Ticks = readTicks,
): Promise<Sample> {
  const before = ticks();
  const value = await measure();
  return { value, stolen: shareStolen(before, ticks()) };
}

/**
 * Takes samples until the host took next to nothing meanwhile, four at most, and answers the calmest of them.
 * @param again called with the share that was taken before another attempt.
 */
export async function calmest(
  sample: () => Promise<Sample>,
  again: (stolen: number) => void,
): Promise<Sample> {
  let best = await sample();
  let last = best;
  for (let attempt = 2; attempt <= ATTEMPTS && best.stolen > TOLERATED; attempt += 1) {
    again(last.stolen);
    last = await sample();
    if (last.stolen < best.stolen) best = last;
  }
  return best;
}

/** `7 % of the processors`. */
export function processors(share: number): string {
  return `${Math.round(share * 100)} % of the processors`;
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
