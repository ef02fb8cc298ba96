/**
 * How many files this process may have open, sockets and what watches them included, and whether few are left.
 *
 * What is opened gets the lowest number that is free: all below it are taken. So the number of what was opened last
 * tells, and nothing is counted.
 */
import { closeSync, openSync, readFileSync } from "node:fs";

let most: number | undefined;

/** Whether fewer than `reserve` are left. @param opened the number of what was opened last; left out: it is tried. */
export function fewDescriptors(reserve: number, opened: number = lowestFree()): boolean {
  most ??= mostDescriptors();
  if (opened < most - reserve) return false;
  // It can be raised from outside.
  most = mostDescriptors();
  return opened >= most - reserve;
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

function lowestFree(): number {
  try {
    const fd = openSync("/dev/null", "r");
    closeSync(fd);
    return fd;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
