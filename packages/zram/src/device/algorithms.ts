/** The algorithms of a disk: the one that writes are compressed with, and those that recompress tries. */
import type { Compressor } from "@dmkit/compressor";

/** How the bytes of a page are to be read: with what algorithm and dictionary. */
export interface Form {
  readonly name: string;
  /** SHA-256 of the dictionary, if there is one. */
  readonly dictionary: Buffer | undefined;
}

/** A way in which pages are compressed. */
export interface Algorithm extends Form {
  readonly compressor: Compressor;
  /** Whether its dictionary, if there is one, is still to be had where it came from: else nobody reads a snapshot with it. */
  readonly isKept: () => Promise<boolean>;
}

/** By priority, 0 … 3; there is always one of priority 0. */
export type Algorithms = readonly [Algorithm, ...(Algorithm | undefined)[]];

/** One that `recompress` tries. */
export interface Secondary extends Algorithm {
  readonly priority: number;
}

/** Those that `recompress` tries, in that order. */
export function secondariesOf(algorithms: Algorithms): readonly Secondary[] {
  return algorithms.flatMap((one, priority) =>
    one === undefined || priority === 0 ? [] : { ...one, priority },
  );
}

/** The lowest priority of an algorithm that reads what another one, maybe, has written; -1 if none does. */
export function readerOf(algorithms: Algorithms, { name, dictionary }: Form): number {
  return algorithms.findIndex(
    (one) =>
      one?.name === name &&
      (one.dictionary === undefined || dictionary === undefined
        ? one.dictionary === dictionary
        : one.dictionary.equals(dictionary)),
  );
}

/** Gives up memory and threads of all. */
export async function closeAll(algorithms: readonly (Algorithm | undefined)[]): Promise<void> {
  for (const one of algorithms) await one?.compressor.close();
}
