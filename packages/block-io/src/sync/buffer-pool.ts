/**
 * Buffers of one size, used again instead of being collected.
 *
 * Invariant: at most `limit` buffers are out at once; who asks for one more waits, first come first served.
 * That makes a pool a bound on memory, not only a saving.
 */

/** Buffers of one size, a bounded number of them. */
export class BufferPool {
  /** Bytes of each buffer. */
  readonly size: number;
  readonly #limit: number;
  #idle: Buffer[] = [];
  #waiting: ((buffer: Buffer) => void)[] = [];
  #out = 0;

  /** @param size bytes of each buffer; @param limit how many may be out at once. */
  constructor(size: number, limit: number) {
    this.size = size;
    this.#limit = limit;
  }

  /** Buffers that are out. */
  get outstanding(): number {
    return this.#out;
  }

  /** A buffer with arbitrary contents, or undefined if all are out or somebody waits already. Throws without memory. */
  tryAcquire(): Buffer | undefined {
    if (this.#out >= this.#limit || this.#waiting.length > 0) return undefined;
    // Counted last: an allocation that throws takes no place.
    const buffer = this.#idle.pop() ?? Buffer.allocUnsafeSlow(this.size);
    this.#out += 1;
    return buffer;
  }

  /** Waits until there is one. Every buffer must come back by {@link release}, once. */
  acquire(): Promise<Buffer> {
    const buffer = this.tryAcquire();
    if (buffer !== undefined) return Promise.resolve(buffer);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  release(buffer: Buffer): void {
    if (buffer.length !== this.size || this.#out === 0)
      throw new Error("buffer pool: not a buffer of this pool");
    const next = this.#waiting.shift();
    if (next !== undefined) return next(buffer);
    this.#out -= 1;
    this.#idle.push(buffer);
  }

  /** Gives idle buffers back to the system. */
  trim(): void {
    this.#idle = [];
  }
}
