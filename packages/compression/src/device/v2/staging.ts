/**
 * Writes that wait in memory, as whole blocks.
 *
 * Invariants:
 *
 * - a block is in `staged` if it was written after the last batch was taken; `batch` is being stored and does not
 *   change any more, but for blocks that are in place and leave it;
 * - both are bounded by `limit` blocks each: who writes more waits until a batch has been taken.
 */
import { isZero } from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry-v1.ts";

/** A block of zeroes: stored as nothing. Compared by identity. */
export const ZEROES: Buffer = Buffer.alloc(BLOCK);

export class Staging {
  readonly limit: number;
  #staged = new Map<number, Buffer>();
  #batch = new Map<number, Buffer>();
  #idle: Buffer[] = [];
  #waiting: { wake: () => void; refuse: (error: unknown) => void }[] = [];

  /** @param limit blocks, at least 1. */
  constructor(limit: number) {
    this.limit = limit;
  }

  /** Blocks that wait to be stored, without those of the batch. */
  get size(): number {
    return this.#staged.size;
  }

  /** What is being stored. */
  get batch(): ReadonlyMap<number, Buffer> {
    return this.#batch;
  }

  /** The contents of a block, or undefined if it has to be read. */
  get(block: number): Buffer | undefined {
    return this.#staged.get(block) ?? this.#batch.get(block);
  }

  /** Whether {@link put} has room for a block. */
  hasRoom(block: number): boolean {
    return this.#staged.size < this.limit || this.#staged.has(block);
  }

  /** Takes a copy of the 4096 bytes of `from` at `at`. */
  put(block: number, from: Buffer, at: number): void {
    if (isZero(from, at, at + BLOCK)) return this.putZeroes(block);
    let buffer = this.#staged.get(block);
    if (buffer === undefined || buffer === ZEROES) {
      buffer = this.#idle.pop() ?? Buffer.allocUnsafeSlow(BLOCK);
      this.#staged.set(block, buffer);
    }
    from.copy(buffer, 0, at, at + BLOCK);
  }

  putZeroes(block: number): void {
    const buffer = this.#staged.get(block);
    if (buffer !== undefined && buffer !== ZEROES) this.#recycle(buffer);
    this.#staged.set(block, ZEROES);
  }

  /** Resolves when it is worth asking for room again. */
  room(): Promise<void> {
    return new Promise((wake, refuse) => this.#waiting.push({ wake, refuse }));
  }

  /** Everything that is staged becomes the batch; the batch before must be empty. */
  takeBatch(): ReadonlyMap<number, Buffer> {
    this.#batch = this.#staged;
    this.#staged = new Map();
    for (const { wake } of this.#waiting.splice(0)) wake();
    return this.#batch;
  }

  /** Blocks of the batch that are in place now. */
  settle(blocks: Iterable<number>): void {
    for (const block of blocks) {
      const buffer = this.#batch.get(block);
      if (buffer === undefined) continue;
      this.#batch.delete(block);
      if (buffer !== ZEROES) this.#recycle(buffer);
    }
  }

  /** What is left of the batch was not stored: it waits again, but for what has been written anew since. */
  giveBack(): void {
    for (const [block, buffer] of this.#batch) {
      if (!this.#staged.has(block)) this.#staged.set(block, buffer);
      else if (buffer !== ZEROES) this.#recycle(buffer);
    }
    this.#batch = new Map();
  }

  /** Nobody who waits now will get room. */
  refuse(error: unknown): void {
    for (const { refuse } of this.#waiting.splice(0)) refuse(error);
  }

  #recycle(buffer: Buffer): void {
    if (this.#idle.length < this.limit) this.#idle.push(buffer);
  }
}
