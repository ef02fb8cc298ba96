/** A write on its way through the cache. */

/** What a request wants to write, in bytes. */
export interface Given {
  readonly offset: number;
  readonly from: Buffer;
  readonly fua: boolean;
  /** First block. */
  readonly first: number;
  /** Blocks. */
  readonly count: number;
}
