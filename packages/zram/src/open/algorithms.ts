/** Makes the algorithms that the options name. */
import { BlockIoError, type ErrorCode, type OpenContext, isErrorCode } from "@dmkit/block-io";
import { CompressorError, createCompressor } from "@dmkit/compressor";
import { PAGE } from "../core/size-classes.ts";
import { type Algorithm, type Algorithms, closeAll } from "../device/algorithms.ts";
import type { ZramOptions } from "../options.ts";

type Needs = Pick<OpenContext, "name" | "environment">;

/** Of one algorithm; undefined: there is none of that priority. */
interface Wanted {
  readonly name: string | undefined;
  readonly level: number | undefined;
}

/** Errors: `ENOENT` (unknown), `ENOTSUP`, `EINVAL` (a level), `ENOMEM`. */
export async function openAlgorithms(options: ZramOptions, context: Needs): Promise<Algorithms> {
  const streams = options.max_comp_streams === 0 ? undefined : options.max_comp_streams;
  const first = await open(
    { name: options.comp_algorithm, level: options.comp_level },
    streams,
    undefined,
    context,
  );
  const others: (Algorithm | undefined)[] = [];
  try {
    for (const { name, level } of secondaries(options)) {
      // Pages are compressed again one after the other, between requests: it needs no threads.
      others.push(name === undefined ? undefined : await open({ name, level }, streams, 0, context));
    }
  } catch (error) {
    await closeAll([first, ...others]);
    throw error;
  }
  return [first, ...others];
}

function secondaries(options: ZramOptions): readonly Wanted[] {
  return [
    { name: options.recomp_algorithm, level: options.recomp_level },
    { name: options.recomp_algorithm2, level: options.recomp_level2 },
    { name: options.recomp_algorithm3, level: options.recomp_level3 },
  ];
}

async function open(
  { name: algorithm, level }: Wanted & { readonly name: string },
  maxStreams: number | undefined,
  threads: number | undefined,
  { name, environment }: Needs,
): Promise<Algorithm> {
  try {
    const compressor = await createCompressor(algorithm, {
      maxInput: PAGE,
      level,
      maxStreams,
      threads,
      // Streams are small here: none is worth a timer.
      idleTime: 0,
      clock: environment.clock,
    });
    return { name: compressor.name, dictionary: undefined, compressor };
  } catch (error) {
    if (!(error instanceof CompressorError)) throw error;
    const code: ErrorCode = isErrorCode(error.code) ? error.code : "EINVAL";
    throw new BlockIoError(error.reason, { code, device: name, op: "open", cause: error, hint: error.hint });
  }
}
