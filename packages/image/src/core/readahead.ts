/**
 * Which chunks to fetch before they are asked for. A client that reads on where a read ended gets one chunk ahead,
 * then two, four, up to the limit, as long as it goes on; anything else gets none.
 */

// Clients that read beside each other.
const STREAMS = 16;

interface Stream {
  /** Where it would go on, in bytes. */
  next: number;
  /** Chunks ahead of it that are wanted. */
  ahead: number;
  /** The first chunk that was not asked for yet. */
  asked: number;
}

export class Readahead {
  readonly #chunkSize: number;
  readonly #chunks: number;
  readonly #most: number;
  #streams: Stream[] = [];

  /** @param chunkSize bytes; @param chunks of the image; @param most chunks ahead, 0: none. */
  constructor(chunkSize: number, chunks: number, most: number) {
    this.#chunkSize = chunkSize;
    this.#chunks = chunks;
    this.#most = most;
  }

  /** Notes a read (bytes); returns the chunks to fetch now, `from` to before `to`. */
  read(offset: number, length: number): { readonly from: number; readonly to: number } {
    const end = offset + length;
    const last = Math.floor((end - 1) / this.#chunkSize);
    const index = this.#streams.findIndex(({ next }) => next === offset);
    const stream = index < 0 ? { next: end, ahead: 0, asked: last + 1 } : this.#take(index);
    this.#streams.push(stream);
    if (this.#streams.length > STREAMS) this.#streams.shift();
    stream.next = end;
    if (index < 0) return { from: 0, to: 0 };
    const from = Math.max(stream.asked, last + 1);
    // It grows once a chunk, not once a request.
    if (stream.ahead === 0 || from <= last + stream.ahead) {
      stream.ahead = Math.min(this.#most, Math.max(1, stream.ahead * 2));
    }
    const to = Math.min(this.#chunks, last + 1 + stream.ahead);
    stream.asked = Math.max(from, to);
    return { from, to: Math.max(from, to) };
  }

  #take(index: number): Stream {
    const [stream] = this.#streams.splice(index, 1) as [Stream];
    return stream;
  }
}
