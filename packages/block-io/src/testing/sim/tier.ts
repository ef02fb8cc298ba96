/**
 * How much tests do: every day (`npm test`) what finds every fault put in, and, where `DMKIT_DEEP` is set
 * (`npm run deep`), how soon they are found as well, and many more of the same runs.
 */
import { type SimOptions, runSim } from "./run/simulate.ts";
import type { SimTarget } from "./target.ts";

/** Whether tests are to do all they can. */
export const isDeep: boolean = process.env["DMKIT_DEEP"] !== undefined;

/** Runs within which a mutant has to be found at all. */
const MOST = 300;

/**
 * Runs until a mutant is found, from seed 1 on; infinity if it is not. In the deep tier the median of three beginnings, so
 * that none is found by one lucky seed.
 * @param options what the runs are given besides.
 */
export async function runsUntilFound(target: SimTarget, options: SimOptions = {}): Promise<number> {
  const found: number[] = [];
  for (const firstSeed of isDeep ? [1, 10_001, 20_001] : [1]) {
    const { failures, runs } = await runSim(target, {
      seeds: MOST,
      shrink: false,
      twice: 0,
      ...options,
      firstSeed,
    });
    found.push(failures.length > 0 ? runs : Number.POSITIVE_INFINITY);
  }
  return found.sort((a, b) => a - b)[Math.floor(found.length / 2)] as number;
}
