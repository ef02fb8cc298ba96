/**
 * What to store when some blocks of a group change (format 2).
 *
 * Invariants:
 *
 * - every block of every extent that is touched is accounted for: replaced, kept, dropped, or lost;
 * - kept blocks of a compressed extent are stored anew, together with their neighbours; kept blocks of a raw one
 *   stay where they are, only described anew;
 * - extents stay within multiples of the largest extent, so that the borders do not wander.
 */
import { BLOCK_SECTORS } from "../format/geometry-v1.ts";
import type { ExtentMap, StoredExtent } from "./extent-map.ts";

/** What becomes of blocks. `store`: with payload; `stay`: raw and in place; `drop`: never written; `lose`. */
export interface Piece {
  readonly kind: "store" | "stay" | "drop" | "lose";
  readonly first: number;
  readonly blocks: number;
}

export interface GroupPlan {
  /** Extents of which something is kept: they have to be read. */
  readonly reads: readonly StoredExtent[];
  /** Blocks that change hands. */
  readonly first: number;
  readonly end: number;
  /** Every extent that is touched. */
  readonly touched: readonly StoredExtent[];
}

/** The extents that the dirty blocks (ascending, of one group) touch. */
export function planGroup(map: ExtentMap, dirty: readonly number[]): GroupPlan {
  const touched: StoredExtent[] = [];
  const reads: StoredExtent[] = [];
  let index = 0;
  let first = Number.POSITIVE_INFINITY;
  let end = 0;
  while (index < dirty.length) {
    const extent = map.find(dirty[index] as number);
    const extentEnd = extent.head + extent.blocks;
    let covered = 0;
    for (; index < dirty.length && (dirty[index] as number) < extentEnd; index += 1) covered += 1;
    touched.push(extent);
    if (covered < extent.blocks && extent.sectors > 0) reads.push(extent);
    first = Math.min(first, extent.head);
    end = Math.max(end, extentEnd);
  }
  return { reads, first, end, touched };
}

/** What is known of a block when a plan is carried out. */
export type BlockState = "new" | "zero" | "kept" | "raw" | "lost" | "untouched";

/** Divides the blocks from `first` to `end` into pieces. */
export function pieces(
  first: number,
  end: number,
  stateOf: (block: number) => BlockState,
  maxExtent: number,
): Piece[] {
  const result: Piece[] = [];
  for (let at = first; at < end; ) {
    const kind = pieceKind(stateOf(at));
    const start = at;
    // Only extents are bounded in length.
    const bound = kind === "store" || kind === "stay" ? (Math.floor(at / maxExtent) + 1) * maxExtent : end;
    do at += 1;
    while (at < Math.min(end, bound) && pieceKind(stateOf(at)) === kind);
    if (kind !== undefined) result.push({ kind, first: start, blocks: at - start });
  }
  return result;
}

function pieceKind(state: BlockState): Piece["kind"] | undefined {
  switch (state) {
    case "new":
    case "kept":
      return "store";
    case "raw":
      return "stay";
    case "zero":
      return "drop";
    case "lost":
      return "lose";
    case "untouched":
      return undefined;
  }
}

/** Whether an extent is stored as it is. */
export function isRaw({ sectors, blocks }: Pick<StoredExtent, "sectors" | "blocks">): boolean {
  return sectors === blocks * BLOCK_SECTORS;
}
