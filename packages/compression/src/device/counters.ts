/** What has been written and what has gone wrong since the device was opened, and what it can be asked. */
import {
  type Controls,
  type Environment,
  type Facts,
  type LongWork,
  type WatchedFacts,
  nextTurn,
  noControls,
} from "@dmkit/block-io";
import type { ExtentMap } from "../core/extent-map.ts";
import { countExtent, extentsOf, newTally, tallyFacts } from "../core/tally.ts";
import type { Codec } from "./codec.ts";

export interface Counters {
  /** Bytes of blocks stored, before and after compression. */
  data: number;
  compressed: number;
  /** Extents stored, and those of them that are stored as they are: compressed they would take as many sectors. */
  extents: number;
  raw: number;
  /** Bytes of metadata written. */
  metadata: number;
  /** Extents that could not be read, however often that was found out. */
  damaged: number;
  /** Extents that their places did not give, and the journal did (format 2). */
  recalled: number;
}

export function newCounters(): Counters {
  return { data: 0, compressed: 0, extents: 0, raw: 0, metadata: 0, damaged: 0, recalled: 0 };
}

/** An extent was stored: what it holds, and as what. */
export function countStored(counters: Counters, contents: Buffer, payload: Buffer): void {
  counters.data += contents.length;
  counters.compressed += payload.length;
  counters.extents += 1;
  if (payload.length === contents.length) counters.raw += 1;
}

export function statusLine({ data, compressed, metadata }: Counters): string {
  return `Data Size ${data} Compressed Data Size ${compressed} Meta Size ${metadata}`;
}

/** What a running device of either format is asked about. */
export interface Subject {
  readonly format: "v1" | "v2";
  readonly environment: Environment;
  readonly counters: Counters;
  readonly codec: Codec;
  readonly map: ExtentMap;
}

/** By name: the historical names, and those that are watched. */
export function counterFacts({ format, counters, codec }: Subject): Facts & WatchedFacts {
  const { data, compressed, extents, raw, metadata, damaged, recalled } = counters;
  return {
    format,
    algorithm: codec.algorithm,
    data_size: data,
    compressed_data_size: compressed,
    meta_size: metadata,
    stored_extents: extents,
    stored_raw_extents: raw,
    decompressed_extents: codec.decompressed,
    damaged,
    recalled,
    compressed_from_bytes: data,
    compressed_to_bytes: compressed,
  };
}

// Blocks after which others get a turn: about a millisecond.
const TURN = 4096;

/** Counts what is stored, as `info` does of an image: by name, as far as it has come into its place. */
async function contents(
  { map, environment }: Subject,
  { signal, progress }: LongWork,
): Promise<Readonly<Record<string, number>>> {
  const tally = newTally();
  let turn = TURN;
  for (const extent of extentsOf(map)) {
    countExtent(map, extent, tally);
    if (extent.head < turn) continue;
    turn = extent.head + TURN;
    progress?.({ done: extent.head, total: map.blocks, unit: "blocks" });
    await nextTurn(environment.scheduler);
    signal?.throwIfAborted();
  }
  return tallyFacts(map, tally);
}

/** What a running device of either format can be told. */
export const compressionControls: Controls<{ readonly subject: Subject }> = {
  ...noControls,
  messages: {
    damaged: {
      arguments: "",
      readOnly: true,
      help: "answers with how many extents could not be read",
      run: ({ subject }) => String(subject.counters.damaged),
    },
    extents: {
      arguments: "",
      readOnly: true,
      long: true,
      help: "counts what is stored: extents and blocks, the bytes they take, how many save how much",
      run: async ({ subject }, _args, options) =>
        Object.entries(await contents(subject, options))
          .map(([name, value]) => `${name} ${value}`)
          .join("\n"),
    },
  },
};
