/**
 * What has become of acknowledged mutations: stable, or to be lost with the server, or to be repeated from
 * the journal.
 */
import { CMD } from "../../protocol.ts";
import { Journal, type JournalEntry } from "./journal.ts";
import type { Request } from "../requests/request.ts";
import { Unflushed } from "./unflushed.ts";

export interface DurabilityOptions {
  /** Bytes of the device. */
  readonly size: number;
  /** Bytes; 0: nothing is kept to be repeated. */
  readonly journal: number;
  /** Every acknowledged mutation counts as stable. */
  readonly writeThrough: boolean;
}

export class Durability {
  readonly journal: Journal | undefined;
  readonly #unflushed: Unflushed;
  readonly #writeThrough: boolean;

  constructor({ size, journal, writeThrough }: DurabilityOptions) {
    this.#unflushed = new Unflushed(size);
    this.journal = journal > 0 ? new Journal(journal) : undefined;
    this.#writeThrough = writeThrough;
  }

  /** Nothing was acknowledged that the server may still lose. */
  get isSettled(): boolean {
    return !this.#unflushed.any;
  }

  /** Whether the loss of the server now means the loss of what it acknowledged. */
  get isAtRisk(): boolean {
    return this.#unflushed.any && this.journal === undefined;
  }

  /** A flush is about to be sent: remembers in it what it will cover. */
  sending(request: Request): void {
    if (request.type === CMD.FLUSH) request.mark = this.#unflushed.mark();
  }

  /** The server has carried a request out. */
  succeeded(request: Request): void {
    if (request.type === CMD.FLUSH) {
      this.#unflushed.settle(request.mark);
      this.journal?.drop(request.mark);
    } else if (request.mutates) {
      this.#acknowledge(request);
    }
  }

  /** What to send to a server that may have lost everything since the last flush. */
  entries(): readonly JournalEntry[] {
    return this.journal?.entries() ?? [];
  }

  /** Whether the server may have lost something in the range of the request. */
  isDoubtful({ offset, length }: Request): boolean {
    return this.#unflushed.doubtful(offset, length);
  }

  #acknowledge(request: Request): void {
    const { journal } = this;
    if (!request.forced && !this.#writeThrough) {
      const number = this.#unflushed.acknowledge(request.offset, request.length);
      journal?.add(number, request);
    } else if (journal !== undefined && !journal.isEmpty) {
      // It is stable, but an older entry under it would be replayed over it.
      journal.add(this.#unflushed.mark(), request);
    }
  }
}
