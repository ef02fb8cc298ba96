/**
 * The process that has started this one. Imported before anything else: loading the rest takes long enough for it to end
 * meanwhile.
 */
import { readFileSync } from "node:fs";

const parent = process.ppid;

/** Whether it is gone. */
export function isParentGone(): boolean {
  return process.ppid !== parent;
}

/**
 * Whether it was gone before this program ran. Another process has taken its place then (1, or one that collects orphans),
 * and shows it by its session: a child has that of its parent, unless it began one itself.
 */
export function wasOrphaned(): boolean {
  const [own, other] = [sessionOf(process.pid), sessionOf(parent)];
  return own !== undefined && other !== undefined && own !== process.pid && own !== other;
}

/** Undefined where nothing tells. */
function sessionOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // Behind the name, which may have any characters: state, parent, group, session.
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[3]);
  } catch {
    return undefined;
  }
}
