/**
 * Where the newest copy of each sector is, over any number of segments.
 *
 * Invariant: each sector is in one copy at most. A copy is taken apart when a newer one covers some of its sectors, and
 * forgotten when nothing of it is left; so the order of the copies of a block means nothing.
 */

/** Data of one block in the log. */
export interface Place {
  /** Number of the log object, in the order in which they were added. */
  readonly object: number;
  readonly segment: number;
  /** Number of the block in the segment. */
  readonly block: number;
}

/** Sectors of a block, by bit, and where they are. */
export interface Copy extends Place {
  readonly bits: number;
}

const NONE: readonly Copy[] = [];

export class LogIndex {
  readonly #copies = new Map<number, readonly Copy[]>();
  #sorted: readonly number[] | undefined;

  /** Sectors `bits` of a block (4096 bytes) have a newer copy at `place`. */
  add(block: number, bits: number, place: Place): void {
    const older = bits === 0xff ? NONE : this.find(block);
    const left = older.flatMap((copy) => {
      const rest = copy.bits & ~bits;
      return rest === 0 ? [] : [{ ...copy, bits: rest }];
    });
    this.#copies.set(block, [{ ...place, bits }, ...left]);
    this.#sorted = undefined;
  }

  /** Copies of a block; none where the log has nothing of it. */
  find(block: number): readonly Copy[] {
    return this.#copies.get(block) ?? NONE;
  }

  /** Blocks that the log has anything of, in order. */
  get blocks(): readonly number[] {
    this.#sorted ??= [...this.#copies.keys()].sort((a, b) => a - b);
    return this.#sorted;
  }

  /** The place in {@link blocks} of the first that is not before `block`. */
  firstFrom(block: number): number {
    const { blocks } = this;
    let low = 0;
    let high = blocks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((blocks[middle] as number) < block) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
