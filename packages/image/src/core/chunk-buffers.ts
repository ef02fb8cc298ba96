/**
 * Memory for chunks and their bodies, used again and again: new memory of that size costs page faults for each of its pages,
 * and a whole collection for every few of them.
 *
 * Invariant: memory belongs to one at a time. It comes back once; what comes a second time, or from elsewhere, is left to the
 * garbage collector.
 */

// What is smaller than this part of a chunk is not worth the memory of one.
const LEAST = 8;

export class ChunkBuffers {
  readonly #size: number;
  readonly #most: number;
  readonly #idle: ArrayBuffer[] = [];
  readonly #out = new WeakSet<ArrayBufferLike>();

  /** @param size bytes of the largest that is kept; @param most how many are kept. */
  constructor(size: number, most: number) {
    this.#size = size;
    this.#most = most;
  }

  /** So many bytes, with anything in them. */
  take(length: number): Buffer {
    if (length > this.#size || length < this.#size / LEAST) return Buffer.allocUnsafeSlow(length);
    const memory = this.#idle.pop() ?? Buffer.allocUnsafeSlow(this.#size).buffer;
    this.#out.add(memory);
    return Buffer.from(memory, 0, length);
  }

  /** Takes back what nobody looks at any more: the bytes, or a part of them. */
  give({ buffer }: Buffer): void {
    if (this.#out.delete(buffer) && this.#idle.length < this.#most) this.#idle.push(buffer as ArrayBuffer);
  }
}
