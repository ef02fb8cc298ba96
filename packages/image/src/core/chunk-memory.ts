/**
 * Plain blobs in memory, by digest: at most `limit` bytes in all, the least recently used goes first. What is larger than
 * the limit is not kept.
 */
export class ChunkMemory {
  readonly #limit: number;
  readonly #dropped: (blob: Buffer) => void;
  // A Map keeps the order of insertion: what is used is inserted again.
  readonly #blobs = new Map<string, Buffer>();
  #bytes = 0;

  /** @param limit bytes; @param dropped is called with each blob that is not kept, or no longer. */
  constructor(limit: number, dropped: (blob: Buffer) => void = () => {}) {
    this.#limit = limit;
    this.#dropped = dropped;
  }

  /** Bytes that are kept. */
  get bytes(): number {
    return this.#bytes;
  }

  get(digest: string): Buffer | undefined {
    const blob = this.#blobs.get(digest);
    if (blob === undefined) return undefined;
    this.#blobs.delete(digest);
    this.#blobs.set(digest, blob);
    return blob;
  }

  put(digest: string, blob: Buffer): void {
    if (blob.length > this.#limit || this.#blobs.has(digest)) return this.#dropped(blob);
    this.#blobs.set(digest, blob);
    this.#bytes += blob.length;
    for (const [oldest, old] of this.#blobs) {
      if (this.#bytes <= this.#limit) return;
      this.#blobs.delete(oldest);
      this.#bytes -= old.length;
      this.#dropped(old);
    }
  }
}
