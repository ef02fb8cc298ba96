/**
 * `resize`: a layer for a target of another length.
 *
 * Where the identity of a layer lies follows from the length, and so does the end of its bitmap: with another length either
 * may lie where the other was. So nothing is changed in place. The bitmap is made anew on another device, and the layer
 * is of the new length when that device has taken the place of the old one.
 *
 * Invariant: until then the layer is what it was, and what is on the new device is no layer before all of it is stable.
 *
 *      1  data below are stable, whatever process has written them
 *      2  bits of the sectors that stay, flush
 *      3  a label where the new length has it, if it is longer and there is room; flush. The old label stays where it is
 *      4  identity, flush
 */
import {
  Bitmap,
  type BlockDevice,
  ByteAccess,
  SECTOR,
  type SettingsTable,
  isZero,
  refuse,
  requireRoom,
  shellQuote,
  checkSettings,
  setting,
  workSettings,
} from "@dmkit/block-io";
import {
  BITMAP_STEP,
  type LayerDevices,
  bitmapBytes,
  findIdentity,
  requireLayerRoom,
  writeIdentity,
} from "../device/layer/layer.ts";
import { copyLabel, judgeData, labelledFor } from "../device/layer/pairing.ts";
import { requireOwnPlaces } from "../device/layer/places.ts";
import { readSetBits } from "../device/layer/set-bits.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { checkSectors } from "../format/geometry.ts";
import type { Identity } from "../format/identity.ts";
import { refuseBase } from "../open/judge.ts";
import type { WorkOptions } from "../device/copy/work.ts";
import { LABEL_ROOM, labelPlace } from "../format/label.ts";

/** Sectors that are read at once: 1 MiB. */
const STEP = 2048;

/** How a layer gets another length. */
export interface ResizeOptions extends WorkOptions {
  /** The layer may become shorter, if all that it has behind the new end is zero. Default false. */
  readonly shrink?: boolean | undefined;
  /** The layer may become longer over what is behind its data: whatever is there is lost. Default false. */
  readonly force?: boolean | undefined;
}

const resizeSettings: SettingsTable<ResizeOptions> = {
  ...workSettings,
  shrink: setting.flag,
  force: setting.flag,
};

/** What a layer says of itself, to be resized. Errors: `EFORMAT`, `EROFS` (a layer of the original), those of the device. */
export async function resizable(bitmap: BlockDevice): Promise<Identity> {
  const block = await findIdentity(bitmap);
  if (block?.kind === "layer") return block.identity;
  throw refuse(
    bitmap.name,
    block?.kind === "original" ? "EROFS" : "EFORMAT",
    block?.kind === "original" ? "the layer was made by the original" : "there is no sound layer on it",
    "Only layers that dmkit has made can be resized. Find out with: dmkit cow info",
  );
}

/**
 * The layers of a stack, from 1 at the bottom, that are not of `sectors` sectors yet. Errors: those of {@link resizable},
 * `EINVAL` where the base ends before that, or the longer ones would lie on each other; `EFORMAT` for a base that has changed.
 */
export async function layersToResize(stack: StackDevices, sectors: number): Promise<readonly number[]> {
  checkSectors(sectors);
  const room = Math.floor((stack.base.size - stack.baseOffset) / SECTOR);
  if (room < sectors)
    throw refuse(
      stack.base.name,
      "EINVAL",
      `the base has ${room} sectors for the target: less than ${sectors}`,
      `A base is as long as what lies on it. Make the file longer, which adds zeroes: truncate -s ${stack.baseOffset + sectors * SECTOR} ${shellQuote(stack.base.name)}`,
    );
  requireOwnPlaces({ ...stack, sectors }, "cow");
  const layers: number[] = [];
  for (const [index, { bitmap }] of stack.layers.entries()) {
    const identity = await resizable(bitmap);
    if (identity.sectors === sectors) continue;
    layers.push(index + 1);
    if (index === 0) await refuseBase(identity, stack);
  }
  return layers;
}

/**
 * Makes the bitmap of a layer for a target of `sectors` sectors on `into`, which is full of zeroes; once `into` is in the
 * place of the old bitmap device, the layer is of that length. Errors: those of {@link resizable}; `EINVAL` (no room,
 * shorter without that word, or data behind the end); `EEXIST` (longer, over what is behind the data, without that word);
 * `EFORMAT` (data of another layer); those of the devices.
 */
export async function resizeLayer(
  layer: LayerDevices,
  into: BlockDevice,
  sectors: number,
  options: ResizeOptions = {},
): Promise<Identity> {
  const { signal, progress } = options;
  const identity = await checkResize(layer, sectors, options);
  const before = identity.sectors;
  requireLayerRoom({ ...layer, bitmap: into }, sectors);
  await layer.data.flush();
  const kept = Math.min(before, sectors);
  for (let at = 0; at < bitmapBytes(kept); at += BITMAP_STEP) {
    signal?.throwIfAborted();
    const bytes = Buffer.alloc(Math.min(BITMAP_STEP, bitmapBytes(kept) - at));
    await layer.bitmap.read(at, bytes);
    const bits = new Bitmap(bytes.length * 8, bytes);
    const end = Math.min(bits.length, kept - at * 8);
    bits.clear(end, bits.length - end);
    if (!isZero(bytes)) await into.write(at, bytes);
    progress?.(Math.min(kept, (at + bytes.length) * 8) * SECTOR);
  }
  await into.flush();
  const resized = {
    ...identity,
    sectors,
    // Of another length: whoever writes to the layer next takes a new one.
    baseWitness: undefined,
    samples: identity.samples?.filter(({ sector }) => sector < sectors),
    labelled: await copyLabel(layer, before, { uuid: identity.uuid, sectors }),
  };
  await writeIdentity(into, resized);
  return resized;
}

/**
 * Throws what {@link resizeLayer} would, as far as it shows by reading: of all layers of a stack, before the first of them is
 * changed. What the layer says of itself.
 */
export async function checkResize(
  layer: LayerDevices,
  sectors: number,
  options: ResizeOptions = {},
): Promise<Identity> {
  const { shrink = false, force = false, signal } = checkSettings(resizeSettings, options);
  checkSectors(sectors);
  const identity = await resizable(layer.bitmap);
  requireRoom(layer.data, layer.offset, sectors * SECTOR);
  const verdict = await judgeData(layer, { kind: "layer", identity }, identity.sectors);
  if (verdict?.kind === "wrong-data")
    throw refuse(layer.data.name, "EFORMAT", verdict.reason, verdict.hint, "open");
  if (sectors < identity.sectors) await refuseLoss(layer, identity.sectors, sectors, shrink, signal);
  if (sectors > identity.sectors && !force) await refuseOthers(layer, identity, sectors, signal);
  return identity;
}

/**
 * Throws `EEXIST` where anything lies behind the data that the layer would grow over: on a device that it shares that is
 * data of somebody else, which the next writes would be written over. All of it is read but for holes, not only where
 * signatures lie: what begins further back need not have one at the start of the new part.
 */
async function refuseOthers(
  layer: LayerDevices,
  { uuid, sectors: before }: Identity,
  sectors: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { data, offset } = layer;
  const unit = data.limits.logicalBlockSize;
  const from = offset + before * SECTOR;
  const end = offset + sectors * SECTOR;
  const ours = (await labelledFor(layer, before)) === uuid ? labelPlace(offset, before) : end;
  const access = new ByteAccess(data);
  const first = from - (from % unit);
  for await (const extent of data.extents(first, Math.ceil(end / unit) * unit - first)) {
    if (extent.kind !== "data") continue;
    const stop = Math.min(end, extent.offset + extent.length);
    for (let at = Math.max(from, extent.offset); at < stop; at += STEP * SECTOR) {
      signal?.throwIfAborted();
      const bytes = Buffer.allocUnsafe(Math.min(STEP * SECTOR, stop - at));
      await access.read(at, bytes);
      bytes.subarray(Math.max(0, ours - at), Math.max(0, ours + LABEL_ROOM - at)).fill(0);
      if (isZero(bytes)) continue;
      throw refuse(
        data.name,
        "EEXIST",
        `the layer would grow over something: byte ${at + bytes.findIndex((byte) => byte !== 0)} is not zero`,
        "Nothing was written. If that is not needed any more: --force; else give the stack devices of its own first: dmkit cow flatten.",
      );
    }
  }
}

/** Throws `EINVAL` where a shorter layer was not asked for, or would have less than zeroes to lose. */
async function refuseLoss(
  { bitmap, data, offset }: LayerDevices,
  before: number,
  sectors: number,
  shrink: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (!shrink)
    throw refuse(
      bitmap.name,
      "EINVAL",
      `the layer has ${before} sectors: ${sectors} are less`,
      "What is behind the new end would be gone. If that is meant: --shrink, which refuses where the layer has data there.",
    );
  const { bits, unreadable } = await readSetBits(bitmap, before, { signal });
  const [gone] = unreadable;
  if (gone !== undefined)
    throw refuse(
      bitmap.name,
      "EIO",
      `byte ${gone} of the bitmap cannot be read`,
      "Restore it from a backup.",
    );
  for (const { first, count } of bits.runs(true, sectors, before)) {
    const end = first + count;
    for (let at = first; at < end; at += STEP) {
      signal?.throwIfAborted();
      const bytes = Buffer.allocUnsafe(Math.min(STEP, end - at) * SECTOR);
      await data.read(offset + at * SECTOR, bytes);
      if (isZero(bytes)) continue;
      throw refuse(
        bitmap.name,
        "EINVAL",
        `the layer has data behind the new end: between sectors ${at} and ${at + bytes.length / SECTOR}`,
        "Shrink the file system first, and discard what is behind it (blkdiscard), or copy what is needed.",
      );
    }
  }
}
