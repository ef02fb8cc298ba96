/** The order in which chunks were read for the first time: the hot list of a boot that was recorded. */
import { Bitmap } from "@dmkit/block-io";
import { MAX_HOT } from "../format/manifest.ts";

export class FirstReads {
  readonly #seen: Bitmap;
  #order: number[] = [];

  /** @param chunks of the image. */
  constructor(chunks: number) {
    this.#seen = new Bitmap(chunks);
  }

  /** The first {@link MAX_HOT} chunks, in the order of their first reads. */
  get order(): readonly number[] {
    return this.#order;
  }

  note(chunk: number): void {
    if (this.#order.length >= MAX_HOT || this.#seen.get(chunk)) return;
    this.#seen.set(chunk);
    this.#order.push(chunk);
  }

  /** Begins anew. */
  clear(): void {
    for (const chunk of this.#order) this.#seen.clear(chunk);
    this.#order = [];
  }
}
