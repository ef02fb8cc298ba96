/**
 * A reader/writer lock over byte ranges.
 *
 * Invariants:
 *
 * - an exclusive range overlaps no other granted range;
 * - requests are granted in order of arrival as far as they overlap: a request that overlaps an earlier
 *   waiting one waits behind it, so nobody starves.
 *
 * Grants are looked for by a scan over all granted and waiting ranges. With the request counts a server
 * admits (hundreds) that is cheaper than keeping a tree; and while nothing exclusive is about, a shared
 * request looks at nothing at all.
 */

/** A granted or waiting range; hand it back to {@link RangeLock.release}. */
export interface RangeGrant {
  readonly offset: number;
  readonly end: number;
  readonly exclusive: boolean;
  /** Its place in the list of granted ranges; owned by the lock. */
  slot: number;
}

interface Waiting {
  readonly grant: RangeGrant;
  readonly wake: () => void;
}

/** A reader/writer lock over byte ranges, first come first served where they overlap. */
export class RangeLock {
  #granted: RangeGrant[] = [];
  #waiting: Waiting[] = [];
  #exclusives = 0;

  /** Ranges granted and waiting; 0 when nothing is going on. */
  get pending(): number {
    return this.#granted.length + this.#waiting.length;
  }

  /** Whether a shared range is granted at once, wherever it lies. */
  get isShared(): boolean {
    return this.#exclusives === 0 && this.#waiting.length === 0;
  }

  /** The grant if it can be had at once, undefined otherwise. `length` in bytes, at least 1. */
  tryAcquire(offset: number, length: number, exclusive: boolean): RangeGrant | undefined {
    const grant: RangeGrant = { offset, end: offset + length, exclusive, slot: -1 };
    if (this.#blocked(grant, this.#waiting.length)) return undefined;
    this.#grant(grant);
    return grant;
  }

  /** Waits for the range. Every grant must be released. */
  async acquire(offset: number, length: number, exclusive: boolean): Promise<RangeGrant> {
    const grant: RangeGrant = { offset, end: offset + length, exclusive, slot: -1 };
    if (this.#blocked(grant, this.#waiting.length)) {
      await new Promise<void>((wake) => this.#waiting.push({ grant, wake }));
    } else {
      this.#grant(grant);
    }
    return grant;
  }

  /** Gives a range back and wakes whoever can now go on. */
  release(grant: RangeGrant): void {
    const last = this.#granted.pop();
    if (last === undefined || grant.slot < 0) throw new Error("range lock: released twice");
    if (last !== grant) {
      this.#granted[grant.slot] = last;
      last.slot = grant.slot;
    }
    grant.slot = -1;
    if (grant.exclusive) this.#exclusives -= 1;
    for (let index = 0; index < this.#waiting.length; ) {
      const waiting = this.#waiting[index] as Waiting;
      if (this.#blocked(waiting.grant, index)) {
        index += 1;
      } else {
        this.#waiting.splice(index, 1);
        this.#grant(waiting.grant);
        waiting.wake();
      }
    }
  }

  /** Runs `work` while holding the range. */
  async with<T>(offset: number, length: number, exclusive: boolean, work: () => Promise<T>): Promise<T> {
    const grant = await this.acquire(offset, length, exclusive);
    try {
      return await work();
    } finally {
      this.release(grant);
    }
  }

  #grant(grant: RangeGrant): void {
    grant.slot = this.#granted.length;
    this.#granted.push(grant);
    if (grant.exclusive) this.#exclusives += 1;
  }

  /** Whether a granted range, or one of the first `ahead` waiting ones, stands in the way. */
  #blocked(grant: RangeGrant, ahead: number): boolean {
    if (!grant.exclusive && this.#exclusives === 0 && ahead === 0) return false;
    for (const other of this.#granted) if (conflict(other, grant)) return true;
    for (let index = 0; index < ahead; index += 1) {
      if (conflict((this.#waiting[index] as Waiting).grant, grant)) return true;
    }
    return false;
  }
}

function conflict(a: RangeGrant, b: RangeGrant): boolean {
  return (a.exclusive || b.exclusive) && a.offset < b.end && b.offset < a.end;
}
