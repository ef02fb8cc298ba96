/**
 * A stream on loan: the handle that {@link Compressor.acquire} gives out.
 *
 * Invariants:
 * - a handle is good for one loan. After release it is dead: whoever kept it gets `ESHUTDOWN`, not the buffer
 *   that by then belongs to somebody else;
 * - a slot goes back to the pool only when no compression runs in it any more, even if it was released before
 *   that: nobody is handed a buffer that a thread is still writing to.
 */
import type { Backend } from "./backend.ts";
import { CompressorError } from "./errors.ts";
import type { ThreadTeam } from "./threads/team.ts";

/** What the pool holds: a backend's working memory and an output buffer. */
export interface Slot {
  readonly context: unknown;
  readonly output: Buffer;
}

/** What all streams of a compressor share. */
export interface StreamHome {
  readonly backend: Backend;
  readonly team: ThreadTeam | undefined;
  readonly maxInput: number;
  giveBack(slot: Slot): void;
}

/** What {@link Compressor.acquire} lends: it compresses and decompresses, one thing at a time. */
export class Stream {
  readonly #home: StreamHome;
  #slot: Slot | undefined;
  #busy = false;

  /** @internal */
  constructor(slot: Slot, home: StreamHome) {
    this.#slot = slot;
    this.#home = home;
  }

  /**
   * Where compressed bytes are put, from its start; at least 8192 bytes, and as much as an input of `maxInput`
   * bytes can take. It is the holder's until release, and keeps its contents until the next compression.
   */
  get output(): Buffer {
    return this.#held().output;
  }

  /**
   * Compresses at once.
   *
   * @param src at most `maxInput` bytes, outside the output buffer.
   * @param limit the most output that is of use, in bytes; by default the whole output buffer.
   * @returns the number of bytes in {@link output}, or -1 if they would be more than `limit` (the buffer's
   *   contents are then undefined).
   * @throws CompressorError `EOVERFLOW` (input too long), `EINVAL` (limit), `EBUSY` (still compressing),
   *   `ESHUTDOWN` (released).
   */
  compressSync(src: Uint8Array, limit?: number): number {
    const slot = this.#ready(src);
    const dst = this.#destination(slot, limit);
    try {
      return this.#checkLength(this.#home.backend.compress(src, dst, slot.context), dst);
    } catch (error) {
      throw this.#asOwnError(error);
    }
  }

  /**
   * As {@link compressSync}, on another thread where the input is long enough for that to pay. `src` is ours
   * until the promise settles.
   */
  async compress(src: Uint8Array, limit?: number): Promise<number> {
    if (src.length <= this.#home.backend.syncCompress) return this.compressSync(src, limit);
    const slot = this.#ready(src);
    const dst = this.#destination(slot, limit);
    this.#busy = true;
    try {
      return this.#checkLength(await this.#compressElsewhere(src, dst, slot.context), dst);
    } catch (error) {
      throw this.#asOwnError(error);
    } finally {
      this.#busy = false;
      if (this.#slot === undefined) this.#home.giveBack(slot);
    }
  }

  /**
   * Gives the stream and its buffer back; the handle is dead from then on. With a compression still running the
   * stream goes back when that ends. Throws `ESHUTDOWN` if it was released before.
   */
  release(): void {
    const slot = this.#held();
    this.#slot = undefined;
    if (!this.#busy) this.#home.giveBack(slot);
  }

  async #compressElsewhere(src: Uint8Array, dst: Uint8Array, context: unknown): Promise<number> {
    const { backend, team } = this.#home;
    if (backend.compressAsync !== undefined) return backend.compressAsync(src, dst, context);
    const length = await team?.run("compress", src, dst);
    return length ?? backend.compress(src, dst, context);
  }

  #held(): Slot {
    if (this.#slot !== undefined) return this.#slot;
    throw new CompressorError("the stream was released", {
      code: "ESHUTDOWN",
      backend: this.#home.backend.name,
      hint: "Acquire one for each use, and release it once",
    });
  }

  #ready(src: Uint8Array): Slot {
    const slot = this.#held();
    const { backend, maxInput } = this.#home;
    if (this.#busy) {
      throw new CompressorError("the stream is still compressing", {
        code: "EBUSY",
        backend: backend.name,
        hint: "Await one compression before the next, or acquire a second stream",
      });
    }
    if (src.length > maxInput) {
      throw new CompressorError(`an input of ${src.length} bytes is longer than ${maxInput}`, {
        code: "EOVERFLOW",
        backend: backend.name,
        hint: "Create the compressor with a larger maxInput",
      });
    }
    return slot;
  }

  #destination({ output }: Slot, limit: number | undefined): Buffer {
    if (limit === undefined || limit === output.length) return output;
    if (Number.isInteger(limit) && limit >= 0 && limit < output.length) return output.subarray(0, limit);
    throw new CompressorError(`limit is ${limit}`, {
      code: "EINVAL",
      backend: this.#home.backend.name,
      hint: `It can be an integer in 0 … ${output.length} here`,
    });
  }

  /** A backend that is not ours may return anything. */
  #checkLength(length: number, dst: Uint8Array): number {
    if (Number.isInteger(length) && length >= -1 && length <= dst.length) return length;
    throw new CompressorError(`the backend returned ${length} as a length`, {
      code: "EIO",
      backend: this.#home.backend.name,
    });
  }

  #asOwnError(error: unknown): CompressorError {
    if (error instanceof CompressorError) return error;
    const { name } = this.#home.backend;
    return new CompressorError("the backend failed to compress", {
      code: "EIO",
      backend: name,
      cause: error,
    });
  }
}
