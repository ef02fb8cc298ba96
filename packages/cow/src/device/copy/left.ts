/**
 * Going on past bad places: what cannot be read or written is left as it is and told at the end, and everything else
 * is done. For operations that take nothing away before its copy is stable, and can be run again for the rest.
 */
import { BlockIoError, SECTOR, isOfPlace } from "@dmkit/block-io";
import type { Source } from "../parts.ts";
import { type Piece, type Run, copyRuns } from "./work.ts";

/** Sectors that are not divided any further: 4 KiB, which is what a disk loses at once. */
const LEAST = 8;
/** So many of them in a row are no bad place, but a device of which nothing is left. */
const MOST = 1024;
/** The same where a block of 4 KiB of a bitmap may be one, with the 16 MiB that it speaks for. */
export const MOST_OF_STACK: number = 8192;
/** Ranges that a message names. */
const NAMED = 5;

export class Left {
  readonly #most: number;
  readonly #ranges: Piece[] = [];
  #first: BlockIoError | undefined;
  #inARow = 0;

  constructor(most: number = MOST) {
    this.#most = most;
  }

  /** Whether anything was left. */
  get any(): boolean {
    return this.#first !== undefined;
  }

  /** Throws `error` if it is not one of a place. */
  add({ sector, count }: Piece, error: unknown): void {
    this.#inARow += 1;
    // After a failed flush nothing is known any more.
    if (!isOfPlace(error) || error.op === "flush" || this.#inARow > this.#most) throw error;
    this.#first ??= error;
    const last = this.#ranges.at(-1);
    if (last !== undefined && last.sector + last.count === sector)
      this.#ranges[this.#ranges.length - 1] = { sector: last.sector, count: last.count + count };
    else this.#ranges.push({ sector, count });
  }

  /** What was left, in the order in which it was found. */
  get ranges(): readonly Piece[] {
    return this.#ranges;
  }

  /** Something has worked. */
  worked(): void {
    this.#inARow = 0;
  }

  /** Throws `EIO` if anything was left. @param done what is done with the rest. @param hint what became of it. */
  refuse(done: string, hint: string): void {
    const first = this.#first;
    if (first === undefined) return;
    const bytes = this.#ranges.reduce((sum, { count }) => sum + count * SECTOR, 0);
    const named = this.#ranges
      .slice(0, NAMED)
      .map(({ sector, count }) => `${sector * SECTOR} … ${(sector + count) * SECTOR - 1}`);
    const more = this.#ranges.length > NAMED ? `, and ${this.#ranges.length - NAMED} more ranges` : "";
    throw new BlockIoError(
      `${bytes} bytes cannot be ${done}, everything else is: bytes ${named.join(", ")}${more} (${first.reason})`,
      { code: "EIO", device: first.device, op: first.op, cause: first, hint },
    );
  }
}

/** Copies runs as {@link copyRuns} does, all but what is left; returns what was copied. */
export async function copyAllBut(runs: readonly Run[], to: Source, left: Left): Promise<Run[]> {
  const copied: Run[] = [];
  const copy = async (some: readonly Run[]): Promise<void> => {
    try {
      await copyRuns(some, to);
      left.worked();
      copied.push(...some);
    } catch (error) {
      const [run, other] = some as [Run, ...Run[]];
      if (other !== undefined) for (const one of some) await copy([one]);
      else if (run.count <= LEAST) left.add(run, error);
      else for (const half of halves(run)) await copy([half]);
    }
  };
  if (runs.length > 0) await copy(runs);
  return copied;
}

function halves({ sector, count, source }: Run): Run[] {
  const middle = Math.ceil((sector + count / 2) / LEAST) * LEAST;
  const end = sector + count;
  // More than the least, but in less than two of them: begins or ends inside of one.
  const at = middle < end ? middle : middle - LEAST;
  return [
    { sector, count: at - sector, source },
    { sector: at, count: end - at, source },
  ];
}
