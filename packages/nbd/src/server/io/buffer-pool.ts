/**
 * Buffers for payloads and replies, used again and again.
 *
 * A fresh buffer of 128 KiB costs more in page faults than copying 128 KiB does (measured: a READ of 128 KiB
 * from RAM takes 25 µs with and 80 µs without the pool), so those from 64 KiB to 4 MiB are kept. What is kept
 * is bounded; the sizes that were not asked for the longest go first.
 */
const STEP = 64 * 1024;
// On top of whole steps, so that 128 KiB of data fit into two of them with the reply's header.
const SLACK = 4096;
const LARGEST = 4 * 1024 * 1024 + SLACK;

/** Bytes of the buffer that is used for `length` bytes. */
export function bufferSize(length: number): number {
  if (length > LARGEST) return length;
  return Math.max(1, Math.ceil((length - SLACK) / STEP)) * STEP + SLACK;
}

export class SizedBufferPool {
  readonly #most: number;
  #kept = 0;
  // By size; the one used last is the last one.
  readonly #free: Map<number, Buffer[]> = new Map();

  /** @param most bytes to keep. */
  constructor(most: number) {
    this.#most = most;
  }

  /** Bytes kept at present. */
  get kept(): number {
    return this.#kept;
  }

  /** A buffer of {@link bufferSize} bytes, with anything in it. */
  take(length: number): Buffer {
    const size = bufferSize(length);
    const free = this.#free.get(size);
    const buffer = free?.pop();
    // Not allocUnsafe: a small part of Node's shared pool could not be given back.
    if (free === undefined || buffer === undefined) return Buffer.allocUnsafeSlow(size);
    this.#kept -= size;
    this.#touch(size, free);
    return buffer;
  }

  /** Takes a buffer back that nobody uses any more. */
  give(buffer: Buffer): void {
    const size = buffer.length;
    if (size > LARGEST || size > this.#most) return;
    const free = this.#free.get(size) ?? [];
    free.push(buffer);
    this.#kept += size;
    this.#touch(size, free);
    for (const [oldest, buffers] of this.#free) {
      while (this.#kept > this.#most && buffers.pop() !== undefined) this.#kept -= oldest;
      if (this.#kept <= this.#most) return;
      this.#free.delete(oldest);
    }
  }

  #touch(size: number, free: Buffer[]): void {
    this.#free.delete(size);
    this.#free.set(size, free);
  }
}
