/**
 * How many requests may be under way at a store: halved when it asks for fewer, one more after each success, as
 * congestion windows are. Requests above the window wait in order; none is refused.
 */

/** Requests under way at the most. */
export interface WindowLimits {
  readonly first: number;
  readonly most: number;
}

export class RequestWindow {
  readonly #most: number;
  readonly #waiting: (() => void)[] = [];
  #size: number;
  #busy = 0;

  constructor({ first, most }: WindowLimits) {
    this.#most = most;
    this.#size = Math.min(first, most);
  }

  /** Requests that may be under way now; at least 1. */
  get size(): number {
    return Math.floor(this.#size);
  }

  /** Resolves when the caller may send one request; {@link leave} follows, once. */
  enter(): Promise<void> {
    if (this.#busy < this.size && this.#waiting.length === 0) {
      this.#busy += 1;
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  /** The request is over. `slower`: the store asked for fewer. */
  leave(outcome: "success" | "failure" | "slower"): void {
    if (outcome === "slower") this.#size = Math.max(1, this.#size / 2);
    if (outcome === "success") this.#size = Math.min(this.#most, this.#size + 1);
    this.#busy -= 1;
    while (this.#busy < this.size) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#busy += 1;
      next();
    }
  }
}
