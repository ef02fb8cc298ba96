/** How many files this process may have open, sockets and what watches them included, and whether few are left. */
import { readFileSync, readdirSync } from "node:fs";

// While more are left than this, one look in eight that could still go wrong is enough.
const EXACT_BELOW = 32;

let most: number | undefined;
/** Questions that need no look, since that many were left. */
let sure = 0;

/** Whether fewer than `reserve` are left; `reserve` is at most 32. False where the system does not tell. */
export function fewDescriptors(reserve: number): boolean {
  if (sure > 0) {
    sure -= 1;
    return false;
  }
  most ??= mostDescriptors();
  let left = most - descriptorsBelow(most);
  if (left < reserve) {
    // It can be raised from outside.
    most = mostDescriptors();
    left = most - descriptorsBelow(most);
  }
  sure = Math.max(0, Math.floor((left - EXACT_BELOW) / 8));
  return left < reserve;
}

/** Infinity where the system does not tell. */
export function mostDescriptors(): number {
  try {
    const [, limit] = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8")) ?? [];
    return Number(limit ?? Number.POSITIVE_INFINITY);
  } catch {
    return most ?? Number.POSITIVE_INFINITY;
  }
}

/** What to do where there are too few. */
export function moreDescriptors(): string {
  return `Raise the limit: prlimit --pid ${process.pid} --nofile=65536, or ulimit -n 65536 before the start, or LimitNOFILE=65536 in the unit.`;
}

/** Those that are open and count: one that was inherited can be above the limit. */
function descriptorsBelow(limit: number): number {
  if (limit === Number.POSITIVE_INFINITY) return 0;
  try {
    // One is open for this very look.
    return readdirSync("/proc/self/fd").filter((fd) => Number(fd) < limit).length - 1;
  } catch {
    return limit;
  }
}
