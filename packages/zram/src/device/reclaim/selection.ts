/**
 * Which pages recompress and writeback are about: by one word, or as the Linux driver has it, by `name=value` words that
 * narrow it down (type, threshold) or name pages.
 */
import { MAX_PRIORITY, kinds } from "../../core/page-table.ts";
import type { Secondary } from "../algorithms.ts";
import type { RunningDisk } from "../disk.ts";

const types = ["all", "idle", "huge", "huge_idle"];

export interface Selection {
  readonly huge: boolean;
  readonly idle: boolean;
  /** Seconds for which nobody has used them; 0: however long. */
  readonly unused: number;
  /** Seconds for which somebody has; 0: however long ago. */
  readonly younger: number;
  /** Bytes that they take at least. */
  readonly threshold: number;
  /** Pages from … to, the last one included. */
  readonly ranges: readonly (readonly [number, number])[];
  /** How many are moved, or tried to be compressed again, at the most. */
  readonly most: number;
  /** Of the algorithms that are tried. */
  readonly priorities: readonly number[];
}

/** All pages in memory. */
export const everything: Selection = {
  huge: false,
  idle: false,
  unused: 0,
  younger: 0,
  threshold: 0,
  ranges: [[0, Number.POSITIVE_INFINITY]],
  most: Number.POSITIVE_INFINITY,
  priorities: Array.from({ length: MAX_PRIORITY }, (_, before) => before + 1),
};

/** Whether a page in memory is one of them; its place in `ranges` is for the caller to see to. */
export function isSelected({ parts }: RunningDisk, page: number, selection: Selection): boolean {
  const { pages } = parts;
  const { huge, idle, unused, younger, threshold } = selection;
  if (!pages.isInSlabs(page) || (huge && pages.table.kind(page) !== kinds.huge)) return false;
  if (unused > 0 && !pages.table.isUnused(page, unused)) return false;
  if (younger > 0 && pages.table.isUnused(page, younger)) return false;
  if (threshold > 0 && pages.bytes(page).length < threshold) return false;
  return !idle || pages.table.isIdle(page);
}

/**
 * The selection that words stand for; undefined for anything else.
 * @param names of `name=value` words that are taken. @param pages of the disk.
 * @param secondaries that `algo` and `priority` may name: with both, it has to be the same one.
 */
export function parseSelection(
  words: readonly string[],
  names: readonly string[],
  pages: number,
  secondaries: readonly Secondary[],
): Selection | undefined {
  const found: { -readonly [Key in keyof Selection]: Selection[Key] } = { ...everything, ranges: [] };
  const ranges: (readonly [number, number])[] = [];
  let chosen = secondaries;
  for (const word of words) {
    const [name = "", value, ...more] = types.includes(word) ? ["type", word] : word.split("=");
    if (value === undefined || more.length > 0 || !names.includes(name)) return undefined;
    const range = (name === "page_indexes" ? /^(\d{1,10})-(\d{1,10})$/ : /^(\d{1,10})$/).exec(value);
    const [first, last] = [Number(range?.[1]), Number(range?.[2] ?? range?.[1])];
    if (name === "type" && types.includes(value)) {
      found.huge = value.startsWith("huge");
      found.idle = value.endsWith("idle");
    } else if (name === "algo") chosen = chosen.filter((one) => one.name === value);
    else if (name === "priority") chosen = chosen.filter(({ priority }) => priority === first);
    else if (name === "threshold" && first <= 4096) found.threshold = first;
    else if (name === "max_pages" && first > 0) found.most = first;
    else if (name.startsWith("page_index") && first <= last && last < pages) ranges.push([first, last]);
    else return undefined;
  }
  if (chosen.length === 0 && secondaries.length > 0) return undefined;
  // In the order of pages, each once.
  ranges.sort(([a], [b]) => a - b);
  found.priorities = chosen.map(({ priority }) => priority);
  return { ...found, ranges: ranges.length === 0 ? everything.ranges : ranges };
}

/** The pages of the ranges, in order, each once. */
export function* pagesOf({ ranges }: Selection, pages: number): Generator<number> {
  let next = 0;
  for (const [first, last] of ranges)
    for (next = Math.max(next, first); next <= last && next < pages; next += 1) yield next;
}
