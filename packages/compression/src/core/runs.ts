/** Runs of blocks that hold something: what is zero is stored as nothing. */
import { isZero } from "@dmkit/block-io";
import { BLOCK } from "../format/geometry-v1.ts";

export interface Run {
  readonly first: number;
  readonly blocks: number;
}

/** The runs of blocks that are not zero, of at most `maxExtent` blocks each. */
export function runsOf(first: number, contents: Buffer, maxExtent: number): Run[] {
  const runs: Run[] = [];
  const count = contents.length / BLOCK;
  let start = -1;
  for (let block = 0; block <= count; block += 1) {
    const empty = block === count || isZero(contents, block * BLOCK, (block + 1) * BLOCK);
    if (start >= 0 && (empty || block - start === maxExtent)) {
      runs.push({ first: first + start, blocks: block - start });
      start = -1;
    }
    if (!empty && start < 0) start = block;
  }
  return runs;
}
