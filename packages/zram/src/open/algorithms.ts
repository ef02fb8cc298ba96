/** Makes the algorithms that the options name. */
import { BlockIoError, type ErrorCode, type OpenContext, isErrorCode } from "@dmkit/block-io";
import { CompressorError, createCompressor } from "@dmkit/compressor";
import { PAGE } from "../core/size-classes.ts";
import { type Algorithm, type Algorithms, closeAll } from "../device/algorithms.ts";
import type { ZramOptions } from "../options.ts";
import type { DictionaryReader } from "./dictionary.ts";

interface Needs extends Pick<OpenContext, "name" | "environment"> {
  readonly read: DictionaryReader;
}

/** Of one algorithm; undefined: there is none of that priority. */
interface Wanted {
  readonly name: string | undefined;
  readonly level: number | undefined;
  /** Path of its dictionary. */
  readonly path: string | undefined;
}

/**
 * Errors: `ENOENT` (unknown), `ENOTSUP` (a package is missing; no dictionaries), `EINVAL` (a level, a dictionary that is none),
 * `ENOMEM`, those of the files.
 */
export async function openAlgorithms(
  options: ZramOptions,
  { name: device, environment }: Pick<OpenContext, "name" | "environment">,
  read: DictionaryReader,
): Promise<Algorithms> {
  const context = { name: device, environment, read };
  const streams = options.max_comp_streams === 0 ? undefined : options.max_comp_streams;
  const { comp_algorithm: name, comp_level: level, comp_dict: path } = options;
  const first = await open({ name, level, path }, streams, undefined, context);
  const others: (Algorithm | undefined)[] = [];
  try {
    for (const { name: other, ...how } of secondaries(options)) {
      // Pages are compressed again one after the other, between requests: it needs no threads.
      others.push(other === undefined ? undefined : await open({ name: other, ...how }, streams, 0, context));
    }
  } catch (error) {
    await closeAll([first, ...others]);
    throw error;
  }
  return [first, ...others];
}

function secondaries(options: ZramOptions): readonly Wanted[] {
  return [
    { name: options.recomp_algorithm, level: options.recomp_level, path: options.recomp_dict },
    { name: options.recomp_algorithm2, level: options.recomp_level2, path: options.recomp_dict2 },
    { name: options.recomp_algorithm3, level: options.recomp_level3, path: options.recomp_dict3 },
  ];
}

async function open(
  { name: algorithm, level, path }: Wanted & { readonly name: string },
  maxStreams: number | undefined,
  threads: number | undefined,
  { name, environment, read }: Needs,
): Promise<Algorithm> {
  const dictionary = path === undefined ? undefined : await read(path, name);
  try {
    const compressor = await createCompressor(algorithm, {
      maxInput: PAGE,
      level,
      dictionary: dictionary?.bytes,
      maxStreams,
      threads,
      // Streams are small here: none is worth a timer.
      idleTime: 0,
      clock: environment.clock,
    });
    const isKept = async (): Promise<boolean> => {
      if (path === undefined || dictionary === undefined) return true;
      const now = await read(path, name).catch(() => undefined);
      return now?.hash.equals(dictionary.hash) === true;
    };
    return { name: compressor.name, dictionary: dictionary?.hash, compressor, isKept };
  } catch (error) {
    if (!(error instanceof CompressorError)) throw error;
    const code: ErrorCode = isErrorCode(error.code) ? error.code : "EINVAL";
    throw new BlockIoError(error.reason, { code, device: name, op: "open", cause: error, hint: error.hint });
  }
}
