/**
 * Metadata of format 2 that the device below does not give: it may do so one day, and with it what the blocks hold.
 *
 * Invariants:
 *
 * - the metadata of a sealed group is not overwritten, nor what lies in the same block of the device below (its unit);
 * - blocks of such a group that the journal tells of are `told`: they are read and written as others are, and every record
 *   that follows says what they are;
 * - a unit is written when the journal tells of all that it is about. So a unit all of whose blocks are staged is given up
 *   with nothing told yet, and however many records it takes, the first ones are not mistaken for the whole.
 */
import type { Change } from "../../format/journal-v2.ts";
import { GROUP } from "../../format/layout-v2.ts";

/** A unit that is overwritten as a whole: one of its groups, and its blocks, from `start` to before `end`. */
export interface SealedRange {
  readonly group: number;
  readonly start: number;
  readonly end: number;
}

const numbers = (first: number, end: number): number[] =>
  Array.from({ length: Math.max(0, end - first) }, (_, index) => first + index);

export class SealedGroups {
  readonly #blocks: number;
  readonly #together: number;
  readonly #sealed = new Set<number>();
  readonly #told = new Map<number, Set<number>>();

  /** @param blocks of the device; @param together groups whose metadata is in one block of the device below. */
  constructor(blocks: number, together: number) {
    this.#blocks = blocks;
    this.#together = together;
  }

  /** Sealed groups. */
  get size(): number {
    return this.#sealed.size;
  }

  /** Groups of which every record says what is told. */
  get told(): ReadonlyMap<number, ReadonlySet<number>> {
    return this.#told;
  }

  /** Whether there are some that were given up, and are not written yet. */
  get isGivingUp(): boolean {
    return [...this.#told.keys()].some((group) => !this.#sealed.has(group));
  }

  /** Whether a group is sealed. */
  has(group: number): boolean {
    return this.#sealed.has(group);
  }

  [Symbol.iterator](): IterableIterator<number> {
    return this.#sealed.values();
  }

  /** The device below does not give the metadata of a group. */
  seal(group: number): void {
    this.#sealed.add(group);
  }

  /** The metadata of a group may be written, and so that of its unit. */
  unseal(group: number): void {
    const { first, end } = this.#unitOf(group);
    for (const one of numbers(first, end)) this.#sealed.delete(one);
  }

  /** Blocks of the unit of a group: from `start` to before `end`. */
  rangeOf(group: number): { readonly start: number; readonly end: number } {
    const { first, end } = this.#unitOf(group);
    return { start: first * GROUP, end: Math.min(end * GROUP, this.#blocks) };
  }

  /** The units that blocks lie in, if they are sealed: those that lie in them as a whole, and others not all of which are told. */
  within(first: number, blocks: number): { readonly whole: SealedRange[]; readonly partly: SealedRange[] } {
    const [whole, partly]: [SealedRange[], SealedRange[]] = [[], []];
    if (this.#sealed.size === 0) return { whole, partly };
    for (let at = first; at < first + blocks; ) {
      const group = Math.floor(at / GROUP);
      const { start, end } = this.rangeOf(group);
      if (this.#sealed.has(group)) {
        if (start >= first && end <= first + blocks) whole.push({ group, start, end });
        else if (!this.#areTold(at, Math.min(end, first + blocks))) partly.push({ group, start, end });
      }
      at = end;
    }
    return { whole, partly };
  }

  /** Groups of which more would be kept in every record if that of this group were given up. */
  addedBy(group: number): readonly number[] {
    const { start, end } = this.rangeOf(group);
    return numbers(start / GROUP, Math.ceil(end / GROUP)).filter((one) => !this.#told.has(one));
  }

  /** All blocks of the unit of a group are staged. */
  giveUp(group: number): void {
    for (const one of this.addedBy(group)) this.#told.set(one, new Set());
    this.unseal(group);
  }

  /** The journal says this of sealed groups, and of those that were given up. */
  tell(changes: readonly Change[]): void {
    if (this.#sealed.size === 0 && this.#told.size === 0) return;
    for (const { first, blocks } of changes) {
      const group = Math.floor(first / GROUP);
      if (this.#sealed.has(group) && !this.#told.has(group)) this.#told.set(group, new Set());
      const told = this.#told.get(group);
      if (told === undefined) continue;
      for (const block of numbers(first, first + blocks)) told.add(block);
    }
  }

  /** Of these groups, those whose metadata may be written. */
  writable(groups: ReadonlySet<number>): ReadonlySet<number> {
    if (this.#told.size === 0) return groups;
    const isTold = (group: number): boolean => {
      const { start, end } = this.rangeOf(group);
      return this.#areTold(start, end);
    };
    return new Set([...groups].filter((group) => !this.#told.has(group) || isTold(group)));
  }

  /** The metadata of these groups was written, or is kept in the journal. */
  settle(groups: ReadonlySet<number>): void {
    for (const group of groups) if (this.#told.delete(group)) this.unseal(group);
  }

  #areTold(first: number, end: number): boolean {
    return numbers(first, end).every(
      (block) => this.#told.get(Math.floor(block / GROUP))?.has(block) === true,
    );
  }

  #unitOf(group: number): { first: number; end: number } {
    const first = Math.floor(group / this.#together) * this.#together;
    return { first, end: first + this.#together };
  }
}
