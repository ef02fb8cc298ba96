/** Findings: a problem, and how to put it right where that needs no guess. */
import { type BlockDevice, type ImageProblem, type OfflineWork, realEnvironment } from "@dmkit/block-io";
import { BLOCK, payloadBytes } from "../../format/geometry-v1.ts";
import { LOST, type StoredExtent } from "../../core/extent-map.ts";
import { type Tally, countExtent, extentsOf, newTally } from "../../core/tally.ts";
import { type Image, ROLE, placeOf, readContents } from "../image.ts";

/** A fix writes to the device itself, and leaves flushing to whoever calls it. */
export interface Finding {
  readonly problem: ImageProblem;
  readonly fix?: ((device: BlockDevice) => Promise<void>) | undefined;
  /** The data blocks whose contents are gone; none where a fix would bring them back. */
  readonly gone?: { readonly first: number; readonly blocks: number } | undefined;
}

export const plainWork: OfflineWork = { environment: realEnvironment };

/** What is on a device; counted by a check. */
export interface Report extends Tally {
  format: "v1" | "v2";
  algorithm: string;
  dataBlocks: number;
}

/** An empty report, to be filled in. */
export function newReport(): Report {
  return { format: "v2", algorithm: "", dataBlocks: 0, ...newTally() };
}

/** Blocks, in words. */
export function blocksAt(first: number, blocks: number): string {
  return blocks === 1 ? `block ${first}` : `blocks ${first} … ${first + blocks - 1}`;
}

/** What a person can do about contents that are gone. */
export const OVERWRITE =
  "Overwrite these blocks, from a backup if there is one; or give up what is lost: fsck --repair with --bad unreadable or --bad zero.";

/** The same, where they cannot be overwritten. */
export const GIVE_UP =
  "Copy the device, if the sector may come back; or give up what is lost: fsck --repair with --bad unreadable or --bad zero.";

/** Extents of which nothing can be said, and those whose payload is not what it should be. */
export async function* inspectExtents(
  image: Image,
  { signal, progress }: OfflineWork,
  report: Report,
  /** Blocks that are reported otherwise. */
  isKnown: (block: number) => boolean,
  fixOf: (extent: StoredExtent) => Promise<Finding["fix"]>,
): AsyncIterable<Finding> {
  const { map } = image;
  let gone: { first: number; blocks: number; lost: boolean } | undefined;
  for (const extent of extentsOf(map)) {
    const { head, blocks, sectors, bad } = extent;
    countExtent(map, extent, report);
    const lost = map.states[head] === LOST;
    if (gone !== undefined && (!bad || gone.lost !== lost || isKnown(head))) {
      yield goneFinding(image, gone);
      gone = undefined;
    }
    if (bad && !isKnown(head)) {
      if (gone === undefined) gone = { first: head, blocks, lost };
      else gone.blocks += blocks;
    }
    if (bad || sectors === 0) continue;
    signal?.throwIfAborted();
    progress?.(head, map.blocks);
    const damage = await readContents(image, extent, Buffer.allocUnsafe(blocks * BLOCK));
    if (damage !== undefined) yield damagedFinding(image, extent, damage, await fixOf(extent));
  }
  if (gone !== undefined) yield goneFinding(image, gone);
  progress?.(map.blocks, map.blocks);
}

function goneFinding(
  image: Image,
  { first, blocks, lost }: { first: number; blocks: number; lost: boolean },
): Finding {
  return {
    gone: { first, blocks },
    problem: {
      kind: lost ? "lost" : "metadata",
      severity: "error",
      role: ROLE,
      location: blocksAt(first, blocks),
      offset: placeOf(image, first),
      length: blocks * BLOCK,
      text: lost ? "the contents are known to be lost" : "the metadata of these blocks makes no sense",
      advice: OVERWRITE,
    },
  };
}

function damagedFinding(
  image: Image,
  { head, blocks, sectors }: StoredExtent,
  damage: string,
  fix: Finding["fix"],
): Finding {
  return {
    gone: fix === undefined ? { first: head, blocks } : undefined,
    fix,
    problem: {
      kind: "extent",
      severity: "error",
      role: ROLE,
      location: blocksAt(head, blocks),
      offset: placeOf(image, head),
      length: payloadBytes(sectors),
      text: damage === "unreadable" ? "the payload cannot be read" : `the payload is damaged (${damage})`,
      ...(fix === undefined ? { advice: OVERWRITE } : { repair: "write it again, from the journal" }),
    },
  };
}
