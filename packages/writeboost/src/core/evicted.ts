/**
 * Blocks of segments whose slots are being used again: until what is there now is durable, a crash brings them back.
 */

interface Segment {
  readonly id: number;
  readonly keys: Float64Array;
}

export class EvictedBlocks {
  /** In the order of their ids. */
  readonly #segments: Segment[] = [];
  /** In how many of them each block is. */
  readonly #counts: Map<number, number> = new Map();

  has(block: number): boolean {
    return this.#counts.has(block);
  }

  /** @param keys the blocks of segment `id`, the newest so far. */
  add(id: number, keys: Float64Array): void {
    this.#segments.push({ id, keys });
    for (const block of keys) this.#counts.set(block, (this.#counts.get(block) ?? 0) + 1);
  }

  /** Nothing can bring back segments up to `id` any more. */
  forget(id: number): void {
    const staying = this.#segments.findIndex((segment) => segment.id > id);
    for (const { keys } of this.#segments.splice(0, staying < 0 ? this.#segments.length : staying)) {
      for (const block of keys) {
        const left = (this.#counts.get(block) ?? 0) - 1;
        if (left > 0) this.#counts.set(block, left);
        else this.#counts.delete(block);
      }
    }
  }
}
