/** What requests are doing now. Those that are answered at once are not counted. */
import { done } from "@dmkit/block-io";

export class Counters {
  #preparing = 0;
  #sending = 0;
  #bytes = 0;

  /** Waiting for bitmaps, waiting for the devices below, both together, and bytes of the latter. */
  get values(): readonly number[] {
    return [this.#preparing, this.#sending, this.#preparing + this.#sending, this.#bytes];
  }

  /** A request that waits for bitmaps. */
  async preparing<T>(loading: Promise<T>): Promise<T> {
    this.#preparing += 1;
    try {
      return await loading;
    } finally {
      this.#preparing -= 1;
    }
  }

  /** A read of `bytes`, which the devices below may have answered at once. */
  reading(request: Promise<void>, bytes: number): Promise<void> {
    return request === done ? done : this.sending(request, bytes);
  }

  /** A request of `bytes` that waits for the devices below. */
  async sending(request: Promise<void>, bytes: number): Promise<void> {
    this.#sending += 1;
    this.#bytes += bytes;
    try {
      await request;
    } finally {
      this.#sending -= 1;
      this.#bytes -= bytes;
    }
  }
}
