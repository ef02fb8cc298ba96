/**
 * Which layers may lie on which: decided from identities alone.
 *
 * A layer names the one it was made on. A stack is sound if each layer names the one below it, all are of the
 * same length, each is where it says that its data is, and the top, if it is to be written, has nothing lying on it.
 */
import { BASE_UUID, type Identity, type IdentityBlock, UNNAMED_UUID } from "../format/identity.ts";
import type { Uuid } from "../format/uuid.ts";
import { bitmapLength } from "../format/geometry.ts";
import { isChangedBelow } from "./reliance.ts";

/** What is wrong with a stack; `layer` counts from 1 at the bottom. */
export interface StackingProblem {
  readonly layer: number;
  readonly kind:
    | "foreign"
    | "damaged"
    | "no-identity"
    | "wrong-length"
    | "wrong-parent"
    | "wrong-offset"
    | "wrong-data"
    | "changed-data"
    | "changed-below"
    | "changed-base"
    | "original"
    | "frozen"
    | "original-top";
  readonly reason: string;
  readonly hint: string;
}

export interface StackingOptions {
  /** Sectors of the target. */
  readonly sectors: number;
  /** Sector of the base where the target starts. */
  readonly baseOffset: number;
  /** Sector of its data device where each layer starts. */
  readonly offsets: readonly number[];
  /** The top is to be written. */
  readonly writable: boolean;
  /** The user has said how layers of the original are aliased. */
  readonly aliasedKnown: boolean;
}

/** How a layer above this one names it. */
export function nameOf(block: IdentityBlock | undefined): Uuid {
  if (block === undefined) return BASE_UUID;
  return block.kind === "layer" ? block.identity.uuid : UNNAMED_UUID;
}

/** All problems of a stack, bottom to top. A new layer is fine on top only. */
export function judgeStack(layers: readonly IdentityBlock[], options: StackingOptions): StackingProblem[] {
  const problems: StackingProblem[] = [];
  for (const [index, block] of layers.entries()) {
    const problem = judgeLayer(index + 1, block, layers[index - 1], index === layers.length - 1, options);
    if (problem !== undefined) problems.push(problem);
  }
  return problems;
}

function judgeLayer(
  layer: number,
  block: IdentityBlock,
  below: IdentityBlock | undefined,
  isTop: boolean,
  options: StackingOptions,
): StackingProblem | undefined {
  switch (block.kind) {
    case "foreign":
      return {
        layer,
        kind: "foreign",
        reason: block.reason,
        hint: "Check the order of bitmap and data devices, and the length.",
      };
    case "damaged":
      return {
        layer,
        kind: "damaged",
        reason: block.reason,
        hint: "Restore the bitmap device from a backup.",
      };
    case "new":
      if (isTop) return undefined;
      return {
        layer,
        kind: "no-identity",
        reason: "a layer below the top has no identity",
        hint: "Only the top may be new. Create the layer with: dmkit cow create",
      };
    case "original":
      return judgeOriginal(layer, block.bitmapLength, isTop, options);
    case "layer":
      return judgeIdentity(layer, block.identity, below, isTop, options);
  }
}

function judgeOriginal(
  layer: number,
  length: number,
  isTop: boolean,
  { sectors, writable, aliasedKnown }: StackingOptions,
): StackingProblem | undefined {
  if (length !== bitmapLength(sectors))
    return wrongLength(layer, `its bitmap has ${length} sectors`, sectors);
  if (!aliasedKnown) {
    return {
      layer,
      kind: "original",
      reason: "the layer was made by the original, whose bitmaps are aliased",
      hint: "Give aliased_block_size (512, 1024, 2048 or 4096) to open it read-only; most kernels used 4096.",
    };
  }
  if (!isTop || !writable) return undefined;
  return {
    layer,
    kind: "original-top",
    reason: "a layer made by the original can only be read",
    hint: "Put a new layer on top of it, or open the stack read-only.",
  };
}

function judgeIdentity(
  layer: number,
  identity: Identity,
  below: IdentityBlock | undefined,
  isTop: boolean,
  options: StackingOptions,
): StackingProblem | undefined {
  const { sectors, parent, frozen } = identity;
  if (sectors !== options.sectors)
    return wrongLength(layer, `it was made for ${sectors} sectors`, options.sectors);
  if (parent !== nameOf(below)) {
    return {
      layer,
      kind: "wrong-parent",
      reason: `the layer lies on ${describe(parent)}, not on ${describe(nameOf(below))}`,
      hint: "Name the layers bottom to top as they were made, without those that were committed since; dmkit cow info tells what lies on what.",
    };
  }
  const misplaced = judgeOffsets(layer, identity, options);
  if (misplaced !== undefined) return misplaced;
  if (isChangedBelow(identity, below)) return changedBelow(layer);
  if (!isTop || !options.writable || !frozen) return undefined;
  return {
    layer,
    kind: "frozen",
    reason: "the layer is frozen: another one lies on top of it",
    hint: "Name the layer that lies on it as the last one, put a new one on top, or open the stack read-only.",
  };
}

function changedBelow(layer: number): StackingProblem {
  return {
    layer,
    kind: "changed-below",
    reason: `layer ${layer - 1}, which it lies on, has been changed since, by a commit from another stack or a restored copy: it would show wrong data`,
    hint: "Restore the layer below as it was. If what the stack shows is right, or does not matter: dmkit cow pair",
  };
}

function judgeOffsets(
  layer: number,
  { parent, dataOffset, baseOffset }: Identity,
  options: StackingOptions,
): StackingProblem | undefined {
  const given = options.offsets[layer - 1];
  const wrong = (what: string, recorded: number, said: number | undefined): StackingProblem => ({
    layer,
    kind: "wrong-offset",
    reason: `${what} starts at sector ${recorded}, not at ${said}`,
    hint: "Give the offset that is recorded. If it was moved, record the new place with: dmkit cow pair",
  });
  if (dataOffset !== undefined && dataOffset !== given) return wrong("the layer's data", dataOffset, given);
  if (parent !== BASE_UUID || baseOffset === undefined || baseOffset === options.baseOffset) return undefined;
  return wrong("what the layer lies on", baseOffset, options.baseOffset);
}

function wrongLength(layer: number, what: string, sectors: number): StackingProblem {
  const hint = `A target of ${sectors} sectors has a bitmap of ${bitmapLength(sectors)}. Give the length the layer was made for.`;
  return { layer, kind: "wrong-length", reason: `the layer is of another length: ${what}`, hint };
}

function describe(name: Uuid): string {
  if (name === BASE_UUID) return "the base";
  return name === UNNAMED_UUID ? "a layer without a name" : `layer ${name}`;
}
