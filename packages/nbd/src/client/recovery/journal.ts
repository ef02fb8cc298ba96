/**
 * Copies of what was acknowledged and not flushed yet, in order of acknowledgement, for a server that comes
 * back without it. Pure.
 *
 * Invariants:
 *
 * - replaying all entries in order brings a server that holds any mixture of old and new sectors to the state
 *   that was acknowledged;
 * - entries are dropped only when a flush has made them stable; so with a forced write over an older entry the
 *   forced write has to be entered, too, or the replay would bring the older bytes back;
 * - bytes of entries and reservations together stay within the capacity, except for a single write that is
 *   larger than that on its own.
 *
 * Payloads are copied one after the other into slabs, which are used again when all their entries are dropped.
 */
import type { Request } from "../requests/request.ts";

/** A mutation to be replayed. */
export interface JournalEntry {
  /** From {@link Unflushed.acknowledge}. */
  readonly number: number;
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly slab: Slab | undefined;
  /** Where its payload starts in the slab. */
  readonly start: number;
}

interface Slab {
  readonly bytes: Buffer;
  used: number;
  entries: number;
}

const SLAB = 1024 * 1024;
const SPARE_SLABS = 8;
// What an entry takes beside its payload, roughly. It bounds the number of entries without payload.
const OVERHEAD = 128;

export class Journal {
  readonly #capacity: number;
  #entries: JournalEntry[] = [];
  // Entries before this one are dropped.
  #first = 0;
  #bytes = 0;
  #reserved = 0;
  #slab: Slab | undefined;
  readonly #spare: Slab[] = [];

  /** @param capacity bytes. */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get isEmpty(): boolean {
    return this.#first === this.#entries.length;
  }

  /** Bytes of payload, and a little for each entry. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Time to flush, so that nobody has to wait. */
  get isHalfFull(): boolean {
    return this.#bytes >= this.#capacity / 2;
  }

  /** Sets room aside for a request; false if there is none until something is flushed or fails. */
  reserve(request: Request): boolean {
    const cost = OVERHEAD + request.payload;
    const taken = this.#bytes + this.#reserved;
    if (taken > 0 && cost > this.#capacity - taken) return false;
    request.reserved = cost;
    this.#reserved += cost;
    return true;
  }

  /** Gives back what was reserved. */
  release(request: Request): void {
    this.#reserved -= request.reserved;
    request.reserved = 0;
  }

  /** Copies an acknowledged request; its reservation becomes an entry. */
  add(number: number, request: Request): void {
    this.release(request);
    const { type, flags, offset, length, data } = request;
    let slab: Slab | undefined;
    let start = 0;
    if (data !== undefined) {
      slab = this.#slabFor(data.length);
      start = slab.used;
      data.copy(slab.bytes, start);
      slab.used += data.length;
      slab.entries += 1;
    }
    this.#entries.push({ number, type, flags, offset, length, slab, start });
    this.#bytes += OVERHEAD + request.payload;
  }

  /** Drops what a flush has made stable. @param mark numbers up to this one. */
  drop(mark: number): void {
    const entries = this.#entries;
    while (this.#first < entries.length && (entries[this.#first] as JournalEntry).number <= mark) {
      const { slab, length } = entries[this.#first] as JournalEntry;
      this.#bytes -= OVERHEAD + (slab === undefined ? 0 : length);
      if (slab !== undefined) this.#leave(slab);
      this.#first += 1;
    }
    // Cut off what was dropped when it is the larger part, so that this costs little for each entry.
    if (this.#first * 2 >= entries.length) {
      this.#entries = entries.slice(this.#first);
      this.#first = 0;
    }
  }

  /** All entries, oldest first. Valid until the next {@link add} or {@link drop}. */
  entries(): readonly JournalEntry[] {
    return this.#entries.slice(this.#first);
  }

  #slabFor(length: number): Slab {
    if (this.#slab !== undefined && length <= SLAB - this.#slab.used) return this.#slab;
    if (length > SLAB / 4) return { bytes: Buffer.allocUnsafeSlow(length), used: 0, entries: 0 };
    this.#slab = this.#spare.pop() ?? { bytes: Buffer.allocUnsafeSlow(SLAB), used: 0, entries: 0 };
    return this.#slab;
  }

  #leave(slab: Slab): void {
    slab.entries -= 1;
    if (slab.entries > 0 || slab.bytes.length !== SLAB) return;
    slab.used = 0;
    if (slab !== this.#slab && this.#spare.length < SPARE_SLABS) this.#spare.push(slab);
  }
}

/** The payload of an entry, if it has one. */
export function payloadOf({ slab, start, length }: JournalEntry): Buffer | undefined {
  return slab?.bytes.subarray(start, start + length);
}
