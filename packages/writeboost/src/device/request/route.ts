/** Which writes may go past the log, where nothing of them is in it: those of long streams, or all. */
import { Streams } from "@dmkit/block-io";
import type { Tunables } from "../../options.ts";

// Bytes of the smallest write of a stream that is worth an operation of its own on the backing device; less if the cutoff is.
const LARGE_WRITE = 64 * 1024;

export class Route {
  readonly #streams: Streams = new Streams(0);
  #all = false;

  /** @param isArchived what went past the log would be missing in its archive: nothing does. */
  tune(tunables: Tunables, isArchived: boolean): void {
    const { sequential_cutoff: cutoff, write_around_mode: around, write_through: through } = tunables;
    this.#streams.cutoff = isArchived ? 0 : cutoff;
    this.#all = (around === 1 || through === 1) && !isArchived;
  }

  /** Notes a write; true if it may go past the log. */
  goesPast(offset: number, length: number): boolean {
    if (this.#all) return true;
    return length >= Math.min(this.#streams.cutoff, LARGE_WRITE) && this.#streams.bypasses(offset, length);
  }
}
