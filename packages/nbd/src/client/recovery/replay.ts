/**
 * What is sent first on a new session: everything the server may have lost, and everything it did not answer.
 *
 *     journal entries, oldest first  ->  unanswered mutations  ->  (only then) reads, flushes, new requests
 *
 * Invariants:
 *
 * - overlapping mutations are sent one after the other, so they take effect in the order they had;
 * - no read is sent before the last of them is answered, so no read sees what was older again.
 */
import { Request } from "../requests/request.ts";
import { type JournalEntry, payloadOf } from "./journal.ts";

export class Replay {
  readonly #waiting: Request[];
  readonly #restored = new Set<Request>();
  readonly #inFlight = new Set<Request>();
  #next = 0;

  /**
   * @param entries of the journal, oldest first.
   * @param unanswered mutations, which do not overlap each other.
   */
  constructor(device: string, entries: readonly JournalEntry[], unanswered: readonly Request[]) {
    const restored = entries.map((entry) => {
      const { type, flags, offset, length } = entry;
      const request = new Request(device, type, flags, offset, length, payloadOf(entry));
      request.renew();
      this.#restored.add(request);
      return request;
    });
    this.#waiting = [...restored, ...unanswered];
  }

  /** Nothing is left to send or to wait for. */
  get isDone(): boolean {
    return this.#next === this.#waiting.length && this.#inFlight.size === 0;
  }

  /** The next request that may be sent now, if there is one. */
  peek(): Request | undefined {
    const next = this.#waiting[this.#next];
    if (next === undefined) return undefined;
    for (const other of this.#inFlight) {
      if (other.offset < next.offset + next.length && next.offset < other.offset + other.length)
        return undefined;
    }
    return next;
  }

  /** Takes what {@link peek} returned: it is being sent. */
  shift(): void {
    this.#inFlight.add(this.#waiting[this.#next] as Request);
    this.#next += 1;
  }

  /** An answer has come. True if the request was a journal entry, for which nobody else waits. */
  answered(request: Request): boolean {
    this.#inFlight.delete(request);
    return this.#restored.has(request);
  }

  /** The session is lost: mutations of callers that have not been answered, sent or not. */
  unanswered(): Request[] {
    return [...this.#inFlight, ...this.#waiting.slice(this.#next)].filter(
      (request) => !this.#restored.has(request),
    );
  }

  /** Sends nothing more. Returns the callers' mutations that were not sent. */
  cancel(): Request[] {
    return this.#waiting.splice(this.#next).filter((request) => !this.#restored.has(request));
  }
}
