/**
 * Doubly linked rings of frames, one for each set of a cache, linked by way numbers so that sets of up to 65535
 * ways need two bytes a link. Several {@link WayLists} may share their links if no frame is in two of them.
 */

export type WayArray = Uint16Array | Uint32Array;

export interface Links {
  readonly next: WayArray;
  readonly previous: WayArray;
}

/** The number that stands for no way in a set of `ways`. */
export function noWay(ways: number): number {
  return ways < 0xffff ? 0xffff : 0xffff_ffff;
}

/** `length` way numbers, none at first. */
export function wayArray(ways: number, length: number): WayArray {
  const none = noWay(ways);
  return none === 0xffff ? new Uint16Array(length).fill(none) : new Uint32Array(length).fill(none);
}

export class WayLists {
  readonly #ways: number;
  readonly #none: number;
  readonly #heads: WayArray;
  readonly #next: WayArray;
  readonly #previous: WayArray;

  constructor(ways: number, sets: number, { next, previous }: Links) {
    this.#ways = ways;
    this.#none = noWay(ways);
    this.#heads = wayArray(ways, sets);
    this.#next = next;
    this.#previous = previous;
  }

  /** The first frame of a set's list, or -1. */
  first(set: number): number {
    const head = this.#heads[set] as number;
    return head === this.#none ? -1 : set * this.#ways + head;
  }

  /** The last frame of a set's list, or -1. */
  last(set: number): number {
    const head = this.#heads[set] as number;
    if (head === this.#none) return -1;
    return set * this.#ways + (this.#previous[set * this.#ways + head] as number);
  }

  /** The frame before one that is in the list, or -1 for the first. */
  before(frame: number): number {
    const way = frame % this.#ways;
    const set = (frame - way) / this.#ways;
    if (this.#heads[set] === way) return -1;
    return frame - way + (this.#previous[frame] as number);
  }

  prepend(frame: number): void {
    this.append(frame);
    const way = frame % this.#ways;
    this.#heads[(frame - way) / this.#ways] = way;
  }

  append(frame: number): void {
    const way = frame % this.#ways;
    const base = frame - way;
    const set = base / this.#ways;
    const head = this.#heads[set] as number;
    if (head === this.#none) {
      this.#heads[set] = way;
      this.#next[frame] = way;
      this.#previous[frame] = way;
      return;
    }
    const tail = this.#previous[base + head] as number;
    this.#next[frame] = head;
    this.#previous[frame] = tail;
    this.#next[base + tail] = way;
    this.#previous[base + head] = way;
  }

  remove(frame: number): void {
    const way = frame % this.#ways;
    const base = frame - way;
    const set = base / this.#ways;
    const next = this.#next[frame] as number;
    if (next === way) {
      this.#heads[set] = this.#none;
      return;
    }
    const previous = this.#previous[frame] as number;
    this.#next[base + previous] = next;
    this.#previous[base + next] = previous;
    if (this.#heads[set] === way) this.#heads[set] = next;
  }

  toFront(frame: number): void {
    const way = frame % this.#ways;
    const set = (frame - way) / this.#ways;
    if (this.#heads[set] === way) return;
    this.remove(frame);
    this.prepend(frame);
  }
}
