/** What has been written and what has gone wrong since the device was opened. */
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

/** The answer to a message that asks for a counter; undefined for any other message. */
export function counterMessage(counters: Counters, words: readonly string[]): string | undefined {
  return words.length === 1 && words[0] === "damaged" ? String(counters.damaged) : undefined;
}
