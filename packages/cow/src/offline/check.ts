/** `check`: a stack that nobody is serving. Nothing is written; problems are data. */
import { type BlockDevice, type ImageProblem, SECTOR, isZero } from "@dmkit/block-io";
import { type BitmapSource, readPages } from "../device/bitmap-loader.ts";
import type { StackingProblem } from "../core/stacking.ts";
import { bitmapDeviceSize, bitmapLength, identityOffset } from "../format/geometry.ts";
import type { IdentityBlock } from "../format/identity.ts";
import { BITMAP_STEP, findIdentity } from "../device/layer/layer.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { bitmapSources, identitiesGiven, judge, judgeAllData } from "../open/judge.ts";
import type { ChainOptions } from "./chain/chain.ts";
import { type WorkOptions, checkWork } from "../device/copy/work.ts";

/** Stable names of what a check can find. */
export type ProblemKind =
  | StackingProblem["kind"]
  | "too-small"
  | "stray-bits"
  | "new-with-bits"
  | "no-base"
  | "old-magic"
  | "unreadable";

/** Something a check found. */
export interface Problem extends ImageProblem {
  readonly kind: ProblemKind;
  /** 0: the base; layers are counted from 1 at the bottom. */
  readonly layer: number;
}

/** All problems of a stack. Errors: those of the devices, except for places of a bitmap that cannot be read. */
export async function* check(
  stack: StackDevices,
  options: WorkOptions & ChainOptions = {},
): AsyncIterable<Problem> {
  checkWork(options);
  const sizes = [...checkSizes(stack)];
  yield* sizes;
  // Without room there is nothing to look at.
  if (sizes.some(({ layer }) => layer > 0)) return;
  const blocks = await identitiesGiven(stack);
  const { aliasedBlockSize } = options;
  for (const problem of judge(blocks, stack, { writable: false, aliasedBlockSize })) {
    const { layer, kind, reason, hint } = problem;
    yield {
      kind,
      severity: kind === "original" ? "warning" : "error",
      role: "bitmap",
      location: `layer ${layer}`,
      layer,
      offset: identityOffset(bitmapLength(stack.sectors)),
      length: SECTOR,
      text: reason,
      advice: await betterHint(stack, problem, hint),
    };
  }
  yield* await checkData(blocks, stack);
  yield* checkMagics(blocks, stack.sectors);
  for (const [index, source] of bitmapSources(stack.layers, blocks, undefined).entries()) {
    const { kind } = blocks[index] as IdentityBlock;
    if (kind === "layer" || kind === "new") yield* checkBits(index + 1, kind, source, stack.sectors, options);
  }
}

/** Data devices that are not those of their layers, and a base that has changed. */
async function checkData(blocks: readonly IdentityBlock[], stack: StackDevices): Promise<Problem[]> {
  return (await judgeAllData(blocks, stack)).map(({ kind, layer, reason, hint }) => ({
    kind,
    severity: kind === "changed-data" ? "warning" : "error",
    role: kind === "changed-base" ? "base" : "data",
    location: `layer ${layer}`,
    layer,
    text: reason,
    advice: hint,
  }));
}

/** Layers from before the magic was corrected. They are read all the same; other programs do not know them. */
function* checkMagics(blocks: readonly IdentityBlock[], sectors: number): Iterable<Problem> {
  for (const [index, block] of blocks.entries()) {
    if (block.kind !== "layer" || block.oldMagic !== true) continue;
    yield {
      kind: "old-magic",
      severity: "warning",
      role: "bitmap",
      location: `layer ${index + 1}`,
      layer: index + 1,
      offset: identityOffset(bitmapLength(sectors)),
      length: SECTOR,
      text: "the identity begins with a wrong magic, as earlier versions wrote it",
      repair: "the right one is written; nothing else changes",
      advice: "Mend the layer by its bitmap device: dmkit fsck --repair BITMAP",
    };
  }
}

function* checkSizes({ base, baseOffset, layers, sectors }: StackDevices): Iterable<Problem> {
  const short = (layer: number, role: string, { name, size }: BlockDevice, need: number): Problem => ({
    kind: layer === 0 ? "no-base" : "too-small",
    severity: "error",
    role,
    location: layer === 0 ? "base" : `layer ${layer}`,
    layer,
    text: `${name} has ${size} bytes, ${need} are needed`,
    advice: "Check the length and the offsets; a file that was cut short has lost what was behind its end.",
  });
  const bytes = sectors * SECTOR;
  if (base.size - baseOffset < bytes) yield short(0, "base", base, baseOffset + bytes);
  for (const [index, { bitmap, data, offset }] of layers.entries()) {
    if (data.size - offset < bytes) yield short(index + 1, "data", data, offset + bytes);
    const need = bitmapDeviceSize(sectors);
    if (bitmap.size < need) yield short(index + 1, "bitmap", bitmap, need);
  }
}

/** A layer of another length has its identity elsewhere: say for how many sectors it is. */
async function betterHint(stack: StackDevices, problem: StackingProblem, hint: string): Promise<string> {
  const bitmap = stack.layers[problem.layer - 1]?.bitmap;
  if (bitmap === undefined || (problem.kind !== "foreign" && problem.kind !== "no-identity")) return hint;
  const found = await findIdentity(bitmap);
  return found?.kind === "layer" ? `The bitmap is of a target of ${found.identity.sectors} sectors.` : hint;
}

/** Bits that speak for no sector, or in a layer that is new. */
async function* checkBits(
  layer: number,
  kind: "layer" | "new",
  source: BitmapSource,
  sectors: number,
  { progress, signal }: WorkOptions,
): AsyncIterable<Problem> {
  const end = identityOffset(bitmapLength(sectors));
  for (let offset = 0; offset < end; offset += BITMAP_STEP) {
    signal?.throwIfAborted();
    const length = Math.min(BITMAP_STEP, end - offset);
    const missing: { offset: number; length: number }[] = [];
    const bytes = await readPages(source, offset, length, (page) => {
      const [place, last] = [offset + page * SECTOR, missing.at(-1)];
      if (last !== undefined && last.offset + last.length === place) last.length += SECTOR;
      else missing.push({ offset: place, length: SECTOR });
    });
    const at = {
      severity: "error",
      role: "bitmap",
      location: `layer ${layer}`,
      layer,
      offset,
      length,
    } as const;
    for (const place of missing) {
      const text = `${place.length} bytes of the bitmap cannot be read`;
      yield { ...at, ...place, kind: "unreadable", text, advice: "Check the device; restore a backup." };
    }
    if (kind === "new" && !isZero(bytes)) {
      const advice = "Its identity was lost, or something else has written to the device: restore a backup.";
      yield { ...at, kind: "new-with-bits", text: "the layer is new, but has bits set", advice };
    } else if (kind === "layer" && hasStrayBits(bytes, offset, sectors)) {
      yield {
        ...at,
        kind: "stray-bits",
        text: "bits are set that speak for no sector: something else has written here",
        repair: "they are cleared; whether bits that speak for sectors are right, nobody can tell",
        advice: "Compare what the stack shows with a backup.",
      };
    }
    progress?.(Math.min(sectors, (offset + length) * 8) * SECTOR);
  }
}

/** Whether a bit at or behind number `sectors` is set. */
export function hasStrayBits(bytes: Buffer, offset: number, sectors: number): boolean {
  const from = sectors - offset * 8;
  if (from >= bytes.length * 8) return false;
  if (from <= 0) return !isZero(bytes);
  const first = Math.floor(from / 8);
  return (bytes[first] as number) >> (from % 8) !== 0 || !isZero(bytes, first + 1);
}
