/** What has been written and what has gone wrong since the device was opened. */
import { type Controls, type Facts, type WatchedFacts, noControls } from "@dmkit/block-io";
export interface Counters {
  /** Bytes of blocks stored, before and after compression. */
  data: number;
  compressed: number;
  /** Bytes of metadata written. */
  metadata: number;
  /** Extents that could not be read, however often that was found out. */
  damaged: number;
}

export function newCounters(): Counters {
  return { data: 0, compressed: 0, metadata: 0, damaged: 0 };
}

export function statusLine({ data, compressed, metadata }: Counters): string {
  return `Data Size ${data} Compressed Data Size ${compressed} Meta Size ${metadata}`;
}

/** The same by name: the historical names, and those that are watched. */
export function counterFacts({ data, compressed, metadata, damaged }: Counters): Facts & WatchedFacts {
  const historical = { data_size: data, compressed_data_size: compressed, meta_size: metadata };
  return { ...historical, damaged, compressed_from_bytes: data, compressed_to_bytes: compressed };
}

/** What a running device of either format can be told. */
export const compressionControls: Controls<{ readonly counters: Counters }> = {
  ...noControls,
  messages: {
    damaged: {
      arguments: "",
      readOnly: true,
      help: "answers with how many extents could not be read",
      run: ({ counters }) => String(counters.damaged),
    },
  },
};
