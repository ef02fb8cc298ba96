/**
 * Whether a data device is the one a layer was written to.
 *
 * Two witnesses: a label on the device, where it was made with room for one (format/label.ts), and a hash of some
 * sectors of the layer in its identity (format/samples.ts). Data devices of two layers that were exchanged are told by
 * either.
 *
 * Invariants, so that neither is ever wrong because of a crash:
 *
 * - a label names a layer only after that layer has an identity, and the identity says so after that;
 * - a sampled sector has a stable bit and stable data, and is not written until an identity that no longer names it
 *   is stable (top-record.ts; the offline operations drop all samples of what they write to first).
 */
import { Bitmap, type BlockDevice, SECTOR, isZero, readWhatIsGiven, uuidBytes } from "@dmkit/block-io";
import type { StackingProblem } from "../../core/stacking.ts";
import type { Identity, IdentityBlock } from "../../format/identity.ts";
import { FREE, type Label, decodeLabel, encodeLabel, labelPlace } from "../../format/label.ts";
import { SAMPLES, type Sample, hashOf } from "../../format/samples.ts";
import type { Uuid } from "../../format/uuid.ts";
import { BITMAP_STEP, type LayerDevices, writeIdentity } from "./layer.ts";
import { piecesWithData } from "./set-bits.ts";

/** Pieces of a bitmap that are looked at for sectors to sample: 8 MiB. */
const MOST_PIECES = 256;
/** Sectors that are read, so that those without contents can be left out. */
const CANDIDATES = 4 * SAMPLES;
/** So many samples that one of them may be a sector that has rotted. */
const ENOUGH = 4;

export type DataVerdict = Pick<StackingProblem, "kind" | "reason" | "hint">;

/**
 * What speaks against the data device of a layer. `wrong-data`: it is another one. `changed-data`: one sample of
 * several does not fit. Undefined where nothing does, or where nothing can be read.
 */
export async function judgeData(
  layer: LayerDevices,
  block: IdentityBlock,
  sectors: number,
): Promise<DataVerdict | undefined> {
  if (block.kind !== "layer" && block.kind !== "new") return undefined;
  const own = block.kind === "layer" ? block.identity : undefined;
  const label = await readLabel(layer, sectors);
  if (label !== "unreadable") {
    if (own?.labelled === true && label === "none") return wrongData(layer, "there is no label on it");
    const owner = label === "none" ? FREE : label.uuid;
    if (owner !== own?.uuid && (owner !== FREE || own?.labelled === true))
      return wrongData(layer, `the label on it names ${owner === FREE ? "nobody" : `layer ${owner}`}`);
  }
  return own?.samples === undefined ? undefined : judgeSamples(layer, own.uuid, own.samples);
}

async function judgeSamples(
  layer: LayerDevices,
  uuid: Uuid,
  samples: readonly Sample[],
): Promise<DataVerdict | undefined> {
  const found = await Promise.all(samples.map(({ sector }) => sampleAt(layer, uuid, sector)));
  // What cannot be read says nothing: whoever reads it is told.
  const wrong = samples.filter(({ hash }, index) => ![hash, undefined].includes(found[index]?.sample.hash));
  const [first] = wrong;
  if (first === undefined) return undefined;
  if (wrong.length > 1 || samples.length < ENOUGH)
    return wrongData(layer, `sector ${first.sector} is not what the layer had there`);
  return {
    kind: "changed-data",
    reason: `sector ${first.sector} of ${layer.data.name} has changed since the layer was closed`,
    hint: "If it was not changed on purpose it has rotted: restore it from a backup.",
  };
}

function wrongData({ bitmap, data }: LayerDevices, why: string): DataVerdict {
  return {
    kind: "wrong-data",
    reason: `${data.name} is not the data device of this layer: ${why}`,
    hint: `Give the data device that belongs to ${bitmap.name}. If it was changed on purpose: dmkit cow pair`,
  };
}

/** Some sectors of a layer whose bits and data are stable. Empty if there are none; what cannot be read is left out. */
export async function sampleData(
  layer: LayerDevices,
  uuid: Uuid,
  sectors: number,
): Promise<readonly Sample[]> {
  const candidates = await setSectors(layer.bitmap, sectors).catch((): number[] => []);
  const found = await Promise.all(candidates.map((sector) => sampleAt(layer, uuid, sector)));
  const read = found.filter((one) => one !== undefined);
  const telling = read.filter(({ isBlank }) => !isBlank);
  const chosen = spread(telling.length > 0 ? telling : read, SAMPLES);
  return chosen.map(({ sample }) => sample).toSorted((a, b) => a.sector - b.sector);
}

/** Up to {@link CANDIDATES} sectors that are in a layer, from all over it. */
async function setSectors(bitmap: BlockDevice, sectors: number): Promise<number[]> {
  const all: number[] = [];
  for await (const piece of piecesWithData(bitmap, sectors)) all.push(piece);
  const chosen = spread(all, MOST_PIECES);
  const found: number[][] = [];
  for (const piece of chosen) {
    const bits = await readPiece(bitmap, piece, sectors);
    const start = piece * BITMAP_STEP * 8;
    const some = pick(bits, CANDIDATES);
    if (some.length > 0) found.push(some.map((bit) => start + bit));
  }
  const share = Math.max(1, Math.ceil(CANDIDATES / Math.max(1, found.length)));
  return spread(
    found.flatMap((some) => spread(some, share)),
    CANDIDATES,
  );
}

async function readPiece(bitmap: BlockDevice, piece: number, sectors: number): Promise<Bitmap> {
  const bits = Math.min(BITMAP_STEP * 8, sectors - piece * BITMAP_STEP * 8);
  // Whole blocks of any device.
  const bytes = Buffer.alloc(Math.ceil(bits / (8 * 4096)) * 4096);
  // Bits that cannot be read are left out.
  await readWhatIsGiven(bitmap, piece * BITMAP_STEP, bytes);
  return new Bitmap(bits, bytes);
}

/** Up to `most` set bits, evenly over all that are set. */
function pick(bits: Bitmap, most: number): number[] {
  const count = bits.count();
  const picked: number[] = [];
  let before = 0;
  for (let at = bits.find(true, 0); at < bits.length && picked.length < most; ) {
    const end = bits.find(false, at);
    for (;;) {
      const next = Math.floor((picked.length * count) / Math.min(most, count));
      if (picked.length >= most || next >= before + end - at) break;
      picked.push(at + next - before);
    }
    before += end - at;
    at = bits.find(true, end);
  }
  return picked;
}

/** Up to `most` of them, evenly, the first and the last included. */
function spread<T>(all: readonly T[], most: number): T[] {
  if (all.length <= most) return [...all];
  return Array.from({ length: most }, (_, index) => {
    return all[Math.floor((index * (all.length - 1)) / Math.max(1, most - 1))] as T;
  });
}

/** Undefined where the sector cannot be read. */
async function sampleAt(
  { data, offset }: LayerDevices,
  uuid: Uuid,
  sector: number,
): Promise<{ readonly sample: Sample; readonly isBlank: boolean } | undefined> {
  const bytes = await readSector(data, offset + sector * SECTOR).catch((): undefined => undefined);
  if (bytes === undefined) return undefined;
  return { sample: { sector, hash: hashOf(uuidBytes(uuid), sector, bytes) }, isBlank: isZero(bytes) };
}

/** `none` also where there is no room for one. */
async function readLabel(
  { data, offset }: LayerDevices,
  sectors: number,
): Promise<Label | "none" | "unreadable"> {
  const place = labelPlace(offset, sectors);
  if (place + Math.max(SECTOR, data.limits.logicalBlockSize) > data.size) return "none";
  const bytes = await readSector(data, place).catch((): undefined => undefined);
  return bytes === undefined ? "unreadable" : (decodeLabel(bytes, sectors) ?? "none");
}

/** The layer that the label of a data device names, if it names one. */
export async function labelledFor(layer: LayerDevices, sectors: number): Promise<Uuid | undefined> {
  const label = await readLabel(layer, sectors);
  return label === "none" || label === "unreadable" || label.uuid === FREE ? undefined : label.uuid;
}

/** Makes the label that any layer may take, on a device with room for it. Errors: those of the device. */
export async function freeLabel(layer: LayerDevices, sectors: number): Promise<void> {
  await writeLabel(layer, { uuid: FREE, sectors });
}

async function writeLabel({ data, offset }: LayerDevices, label: Label): Promise<void> {
  const block = Buffer.alloc(data.limits.logicalBlockSize);
  encodeLabel(label).copy(block);
  await data.write(labelPlace(offset, label.sectors), block);
  await data.flush();
}

/**
 * Takes the label of a layer's data device, if it is free, and then says so in the identity, which is stable already;
 * returns the identity as it is then. Errors: those of the devices.
 * @param take even if it is somebody else's.
 */
export async function takeLabel(layer: LayerDevices, identity: Identity, take = false): Promise<Identity> {
  const { uuid, sectors } = identity;
  const label = await readLabel(layer, sectors);
  if (label === "none" || label === "unreadable") return identity;
  if (label.uuid !== uuid && (label.uuid === FREE || take)) await writeLabel(layer, { uuid, sectors });
  else if (label.uuid !== uuid || identity.labelled === true) return identity;
  const labelled = { ...identity, labelled: true };
  await writeIdentity(layer.bitmap, labelled);
  return labelled;
}

/**
 * Labels a data device for a layer that gets another length, where the new length has its label. True if that was done:
 * the layer has one already, so what is behind its data is its own, and there is room. A shorter one goes without: its label
 * would lie among the data of the old length, which counts until the bitmap has been replaced. Errors: those of the device.
 */
export async function copyLabel(layer: LayerDevices, before: number, label: Label): Promise<boolean> {
  const { data, offset } = layer;
  const place = labelPlace(offset, label.sectors);
  const unit = Math.max(SECTOR, data.limits.logicalBlockSize);
  if (label.sectors < before) return false;
  if ((await labelledFor(layer, before)) !== label.uuid || place + unit > data.size) return false;
  // The label of the old length would be gone, and the layer not found by it.
  if (place === labelPlace(offset, before) || !isZero(await readSector(data, place))) return false;
  await writeLabel(layer, label);
  return true;
}

/** Gives the label of a layer back that is to be new again. Errors: those of the devices. */
export async function giveLabelBack(layer: LayerDevices, identity: Identity): Promise<void> {
  if (identity.labelled === true) await writeIdentity(layer.bitmap, { ...identity, labelled: undefined });
  else await layer.bitmap.flush();
  // Whatever the identity says: it may have been changed by an attempt that was cut short.
  if ((await labelledFor(layer, identity.sectors)) === identity.uuid)
    await freeLabel(layer, identity.sectors);
}

async function readSector(device: BlockDevice, at: number): Promise<Buffer> {
  const unit = Math.max(SECTOR, device.limits.logicalBlockSize);
  const start = Math.floor(at / unit) * unit;
  const block = Buffer.alloc(unit);
  await device.read(start, block);
  return block.subarray(at - start, at - start + SECTOR);
}
