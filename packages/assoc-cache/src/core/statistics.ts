/**
 * What a cache counts. Requests are counted once for each block they touch, as the original did by splitting
 * them at block boundaries.
 */
export class Statistics {
  reads = 0;
  writes = 0;
  readHits = 0;
  /** Invalidations by write-through, and hits on blocks that were still being filled, included. */
  writeHits = 0;
  /** Frames that got another block. */
  replacements = 0;
  /** Times a set was found full of dirty blocks and one of them had to be written back. */
  replacedDirty = 0;
  /** Dirty blocks written back, for whatever reason. */
  writtenBack = 0;
  /** Blocks that went past the cache because they belong to a sequential stream. */
  bypassed = 0;
  /** Failed requests to the cache device. */
  cacheErrors = 0;
  /** Failed writebacks. */
  writebackErrors = 0;

  /** Zeroes what counts requests; what was written back, and errors, stay. */
  clear(): void {
    this.reads = this.writes = this.readHits = this.writeHits = 0;
    this.replacements = this.replacedDirty = this.bypassed = 0;
  }

  get hits(): number {
    return this.readHits + this.writeHits;
  }

  /** Whole per cent of all reads and writes that were hits. */
  get hitPercentage(): number {
    const total = this.reads + this.writes;
    return total === 0 ? 0 : Math.floor((this.hits * 100) / total);
  }

  /** The first line of the status, in the historical words; the percentage is not padded. */
  statsLine(): string {
    return (
      `stats: reads(${this.reads}), writes(${this.writes}), cache hits(${this.hits}, 0.${this.hitPercentage}),` +
      `replacement(${this.replacements}), replaced dirty blocks(${this.replacedDirty})`
    );
  }
}
