/** Ranges of bytes, in order, asked for by the chunks they touch. */

/** Which chunks a sequence of ranges, in order, touches; asked for chunk by chunk in order. */
export class Changes {
  readonly #ranges: AsyncIterator<{ readonly offset: number; readonly length: number }> | undefined;
  readonly #chunkSize: number;
  #current: { readonly offset: number; readonly length: number } | undefined;
  #ended = false;

  constructor(
    ranges: AsyncIterable<{ readonly offset: number; readonly length: number }> | undefined,
    chunkSize: number,
  ) {
    this.#ranges = ranges?.[Symbol.asyncIterator]();
    this.#chunkSize = chunkSize;
  }

  async touch(chunk: number): Promise<boolean> {
    const start = chunk * this.#chunkSize;
    while (
      !this.#ended &&
      (this.#current === undefined || this.#current.offset + this.#current.length <= start)
    ) {
      const next = await this.#ranges?.next();
      if (next === undefined || next.done === true) this.#ended = true;
      else this.#current = next.value;
    }
    return !this.#ended && this.#current !== undefined && this.#current.offset < start + this.#chunkSize;
  }

  async end(): Promise<void> {
    await this.#ranges?.return?.();
  }
}
