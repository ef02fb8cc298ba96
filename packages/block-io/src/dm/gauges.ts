/** What a target counts that is worth watching: what `dmkit top` and the metrics make their columns of. */
import type { Facts } from "./controls.ts";

/** All add up over the lines of a table; what a target does not have it leaves out. */
export interface GaugeCounts {
  /** Requests a cache could serve, of all it was asked for: both since it was opened. */
  readonly hits?: number;
  readonly lookups?: number;
  /** Dirty blocks of a cache, of all it has room for. */
  readonly dirty?: number;
  readonly capacity?: number;
  /** Segments of a log that are not written back yet. */
  readonly segments?: number;
  /** Bytes as they were written, and as they are stored. */
  readonly data?: number;
  readonly stored?: number;
}

/** The sum of those facts that are numbers and have one of these names, or a name like it. */
export function sumOfFacts(facts: Facts, ...names: readonly (string | RegExp)[]): number {
  const isMeant = (name: string): boolean =>
    names.some((one) => (typeof one === "string" ? one === name : one.test(name)));
  return Object.entries(facts).reduce(
    (sum, [name, value]) => (typeof value === "number" && isMeant(name) ? sum + value : sum),
    0,
  );
}
