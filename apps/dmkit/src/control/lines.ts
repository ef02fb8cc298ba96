/** Lines of bounded length from a stream of chunks, in whatever pieces they arrive. */

const NEWLINE = 0x0a;

export class Lines {
  readonly #longest: number;
  readonly #line: (line: string) => void;
  readonly #tooLong: () => void;
  #chunks: Buffer[] = [];
  // Bytes in them.
  #held = 0;
  #ended = false;

  /**
   * @param longest bytes of a line without its end.
   * @param tooLong called once; nothing is reported after it.
   */
  constructor(longest: number, line: (line: string) => void, tooLong: () => void) {
    this.#longest = longest;
    this.#line = line;
    this.#tooLong = tooLong;
  }

  receive(chunk: Buffer): void {
    for (let at = 0; !this.#ended && at < chunk.length; ) {
      const end = chunk.indexOf(NEWLINE, at);
      const piece = chunk.subarray(at, end === -1 ? chunk.length : end);
      if (piece.length > this.#longest - this.#held) {
        this.end();
        this.#tooLong();
        return;
      }
      this.#chunks.push(piece);
      this.#held += piece.length;
      if (end === -1) return;
      at = end + 1;
      const line = Buffer.concat(this.#chunks).toString("utf8");
      this.#chunks = [];
      this.#held = 0;
      if (line.trim() !== "") this.#line(line);
    }
  }

  /** Reports no more lines. */
  end(): void {
    this.#ended = true;
    this.#chunks = [];
    this.#held = 0;
  }
}
