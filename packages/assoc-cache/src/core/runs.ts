/**
 * Cuts the blocks of a request into runs: neighbours that lie in neighbouring frames, or in none, and are to be
 * treated alike become one transfer.
 */

/** `count` blocks from `block` on, in the frames from `frame` on; if negative, the same for all of them. */
export interface Run {
  readonly block: number;
  readonly frame: number;
  readonly count: number;
}

/**
 * @param frames for each block from `first` on the frame it is in, or a negative number for something else.
 * @param longest blocks of a run at most.
 */
export function runsOf(
  first: number,
  frames: readonly number[],
  longest: number = Number.MAX_SAFE_INTEGER,
): Run[] {
  const runs: Run[] = [];
  for (let start = 0; start < frames.length; ) {
    const frame = frames[start] as number;
    let count = 1;
    while (start + count < frames.length && count < longest) {
      const next = frames[start + count] as number;
      if (next !== (frame < 0 ? frame : frame + count)) break;
      count += 1;
    }
    runs.push({ block: first + start, frame, count });
    start += count;
  }
  return runs;
}
