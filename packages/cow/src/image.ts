/**
 * The declaration of a cow layer as an image: what offline tools can do with one layer, by its bitmap device. Its
 * data, and what lies below, make checks more complete. Whole stacks have functions of their own (`check`,
 * `stackInfo`, …), because they take any number of devices.
 */
import {
  type BlockDevice,
  BlockIoError,
  LinearDevice,
  type Detected,
  type ImageDevices,
  type ImageFacts,
  type ImageFormat,
  type ImageProblem,
  type ImageRepair,
  type OfflineWork,
  type OptionTable,
  SECTOR,
  ZeroDevice,
  describeSize,
  isOfPlace,
  parseOptions,
} from "@dmkit/block-io";
import { type Problem, check } from "./offline/check.ts";
import { dump, restore } from "./offline/dump.ts";
import { bitmapDeviceSize } from "./format/geometry.ts";
import { BASE_UUID, UNNAMED_UUID } from "./format/identity.ts";
import { clearBitmap, readIdentity } from "./device/layer/layer.ts";
import { type Located, locateIdentity, placeOf, sectorsOf } from "./device/layer/locate.ts";
import { mapLayer } from "./offline/map.ts";
import { createLayer } from "./offline/create/create.ts";
import { cowOptions } from "./options.ts";
import { clearStrayBits, mendMagic } from "./offline/repair.ts";
import { readSetBits } from "./device/layer/set-bits.ts";

/** Places a device is looked at for an identity: enough for targets of 128 GiB, or any on a device made for it. */
const PLACES = 1024;

const formatOptions = {
  size: {
    type: "size",
    min: SECTOR,
    max: Number.MAX_SAFE_INTEGER,
    optional: true,
    help: "bytes of the target; left out: those of the base, or of the data device",
  },
  data_offset: cowOptions.layers.of.offset,
  base_offset: cowOptions.base_offset,
  force: { type: "flag", default: false, help: "over whatever is on the bitmap device, which is lost" },
} as const satisfies OptionTable;

/** Offline tools for one layer of a copy-on-write stack. */
export const cowImages: ImageFormat = {
  name: "cow",
  summary: "layer of a copy-on-write stack",
  roles: [
    { name: "bitmap", required: true, help: "the device that tells which sectors are in the layer" },
    {
      name: "data",
      required: false,
      overwritten: true,
      help: "the device that holds them; needed to make a layer",
    },
    { name: "base", required: false, help: "what the layer lies on, if that is the base image" },
  ],
  detect,
  info,
  check: checkLayer,
  repair,
  dump: async (devices, work) => dump(bitmapOf(devices), work),
  restore: async (devices, given, work) => restore(bitmapOf(devices), given, work),
  async map(devices, work) {
    const sectors = await requireSectors(devices);
    const found = await locateIdentity(bitmapOf(devices));
    const start = offsetsOf(found).baseOffset * SECTOR;
    const { base } = devices;
    const below = base && new LinearDevice(base, start, Math.min(base.size - start, sectors * SECTOR));
    return mapLayer(bitmapOf(devices), below, sectors, work);
  },
  formatOptions,
  format,
};

async function detect(device: BlockDevice): Promise<Detected | undefined> {
  const found = await locateIdentity(device, PLACES);
  if (found === undefined) return undefined;
  const { block } = found;
  const role = "bitmap";
  if (block.kind === "damaged")
    return { certainty: "plausible", role, text: "layer with a damaged identity", identity: "" };
  if (block.kind === "original")
    return {
      certainty: "magic",
      role,
      text: `layer made by the original, bitmap of ${block.bitmapLength} sectors`,
    };
  const { uuid, sectors, frozen, snapshot } = block.identity;
  const state = snapshot === undefined ? (frozen ? ", frozen" : "") : `, snapshot ${snapshot.name}`;
  const text = `layer of ${describeSize(sectors * SECTOR)}${state}`;
  return { certainty: "magic", role, text, identity: uuid };
}

async function info(devices: ImageDevices, work: OfflineWork): Promise<ImageFacts> {
  const bitmap = bitmapOf(devices);
  const found = await locateIdentity(bitmap);
  const sectors = await requireSectors(devices, found);
  if (found?.block.kind === "original") {
    return {
      kind: "made by the original, aliased",
      bitmap_sectors: found.block.bitmapLength,
      least_bytes: sectors * SECTOR,
    };
  }
  if (found?.block.kind !== "layer") return { kind: "new", bytes: sectors * SECTOR };
  const { uuid, parent, frozen, labelled, dataOffset, baseOffset, snapshot } = found.block.identity;
  const { bits, unreadable } = await readSetBits(bitmap, sectors, work);
  return {
    kind: "layer",
    state: frozen ? "frozen: another layer lies on it" : "can be written",
    ...(snapshot === undefined
      ? {}
      : { snapshot: snapshot.name, snapshot_made: new Date(snapshot.made).toISOString() }),
    bytes: sectors * SECTOR,
    allocated_bytes: bits.count * SECTOR,
    ...(unreadable.length === 0 ? {} : { unreadable_bitmap_sectors: unreadable.length }),
    uuid,
    lies_on: parent === BASE_UUID ? "the base" : parent === UNNAMED_UUID ? "a layer of the original" : parent,
    ...(baseOffset === undefined ? {} : { base_offset_sectors: baseOffset }),
    ...(dataOffset === undefined ? {} : { data_offset_sectors: dataOffset }),
    data_label: labelled === true ? "yes" : "no",
  };
}

async function* checkLayer(devices: ImageDevices, work: OfflineWork): AsyncIterable<Problem> {
  const bitmap = bitmapOf(devices);
  let found: Located | undefined;
  try {
    found = await locateIdentity(bitmap);
  } catch (error) {
    if (!isOfPlace(error)) throw error;
    yield identityProblem("damaged", error.reason, error.hint ?? "", error.offset);
    return;
  }
  const sectors = await sectorsFor(devices, found);
  if (found?.block.kind === "damaged") {
    const { offset, block } = found;
    const advice = "Restore the bitmap device from a backup or a dump.";
    yield identityProblem("damaged", block.reason, advice, offset);
    return;
  }
  if (sectors === undefined || (found === undefined && !(await isNew(bitmap, sectors)))) {
    const advice =
      "Name the base or the data device of a new layer; otherwise this is no layer, or its identity is lost.";
    yield identityProblem("no-identity", "there is no identity of a layer", advice);
    return;
  }
  const { base, data } = devices;
  const { dataOffset, baseOffset } = offsetsOf(found);
  const absent = (offset: number): ZeroDevice => new ZeroDevice(offset + sectors * SECTOR);
  const offset = dataOffset * SECTOR;
  const layers = [{ bitmap, data: data ?? absent(offset), offset }];
  const { progress, signal } = work;
  const inBytes = progress && ((done: number): void => progress(done, sectors * SECTOR));
  const options = { signal, progress: inBytes };
  const stack = {
    base: base ?? absent(baseOffset * SECTOR),
    baseOffset: baseOffset * SECTOR,
    layers,
    sectors,
  };
  for await (const problem of check(stack, options)) {
    // Of a device that was not named nothing is known.
    if (data === undefined && problem.role === "data") continue;
    if (base === undefined && problem.kind === "changed-base") continue;
    // What it lies on is known only if that is the base.
    if (problem.kind !== "wrong-parent") yield problem;
    else if (base !== undefined) {
      yield {
        ...problem,
        severity: "warning",
        text: "the layer lies on another layer, not on the base",
        advice: "Check the whole stack with: dmkit cow check",
      };
    }
  }
}

function identityProblem(
  kind: "damaged" | "no-identity",
  text: string,
  advice: string,
  offset?: number,
): Problem {
  const place = { role: "bitmap", location: "identity", layer: 1, offset };
  return { kind, severity: "error", ...place, text, advice };
}

/** Where data and base start, in sectors, as far as the identity tells. */
function offsetsOf(found: Located | undefined): { dataOffset: number; baseOffset: number } {
  const { dataOffset = 0, baseOffset = 0 } = found?.block.kind === "layer" ? found.block.identity : {};
  return { dataOffset, baseOffset };
}

/** Without its identity a layer of this length would be new. */
async function isNew(bitmap: BlockDevice, sectors: number): Promise<boolean> {
  if (bitmap.size < bitmapDeviceSize(sectors)) return false;
  return (await readIdentity(bitmap, sectors)).kind === "new";
}

async function repair(devices: ImageDevices, work: OfflineWork): Promise<ImageRepair> {
  const repaired: ImageProblem[] = [];
  const left: ImageProblem[] = [];
  for await (const problem of checkLayer(devices, work)) {
    (problem.repair === undefined ? left : repaired).push(problem);
  }
  if (repaired.length > 0) {
    const sectors = await requireSectors(devices);
    await mendMagic({ bitmap: bitmapOf(devices) }, sectors);
    await clearStrayBits({ bitmap: bitmapOf(devices) }, sectors, work);
  }
  return { repaired, left };
}

async function format(
  devices: ImageDevices,
  words: Readonly<Record<string, string>>,
  { environment }: OfflineWork,
): Promise<void> {
  const bitmap = bitmapOf(devices);
  const { size, force, data_offset, base_offset } = parseOptions(formatOptions, words, "cow");
  const { data, base } = devices;
  if (data === undefined)
    throw invalid("a layer needs a data device", "Name the bitmap device and the data device.");
  const offset = data_offset * SECTOR;
  const baseOffset = base_offset * SECTOR;
  const bytes = size ?? (base === undefined ? data.size - offset : base.size - baseOffset);
  if (bytes % SECTOR !== 0) throw invalid(`${bytes} bytes are no whole sectors`, "Give a multiple of 512.");
  const sectors = bytes / SECTOR;
  if (force && bitmap.size >= bitmapDeviceSize(sectors)) {
    // The identity first: bits alone are refused.
    for (let old = await locateIdentity(bitmap); old !== undefined; old = await locateIdentity(bitmap)) {
      await bitmap.writeZeroes(old.offset, 4096);
      await bitmap.flush();
    }
    await clearBitmap(bitmap, sectors);
  }
  const start = base === undefined ? undefined : baseOffset;
  // Whether the devices may be written over was asked before: see ImageRole.
  await createLayer({ bitmap, data, offset }, { sectors, environment, baseOffset: start, force: true });
}

/** The length of the target, as far as anything tells it. */
async function sectorsFor(devices: ImageDevices, found: Located | undefined): Promise<number | undefined> {
  const told = found && sectorsOf(found);
  if (told !== undefined && found?.block.kind === "layer") return told;
  const other = devices["base"] ?? devices["data"];
  const sectors = other === undefined ? undefined : Math.floor(other.size / SECTOR);
  if (sectors === undefined || sectors === 0) return told;
  // Of a layer of the original only its bitmap is known to go with it.
  return found === undefined || placeOf(sectors) === found.offset ? sectors : told;
}

/** The same; throws `EFORMAT` if there is no sound identity, nor a new layer. */
async function requireSectors(devices: ImageDevices, located?: Located): Promise<number> {
  const bitmap = bitmapOf(devices);
  const found = located ?? (await locateIdentity(bitmap));
  const sectors = await sectorsFor(devices, found);
  const sound =
    found === undefined
      ? sectors !== undefined && (await isNew(bitmap, sectors))
      : found.block.kind !== "damaged";
  if (sound && sectors !== undefined) return sectors;
  throw new BlockIoError(
    found?.block.kind === "damaged" ? found.block.reason : "there is no identity of a layer",
    {
      code: "EFORMAT",
      device: bitmap.name,
      hint: "Name the bitmap device of a layer; of a new one also its base or data device.",
    },
  );
}

function bitmapOf({ bitmap }: ImageDevices): BlockDevice {
  if (bitmap !== undefined) return bitmap;
  throw invalid("no bitmap device is given", "Name the bitmap device of the layer.");
}

function invalid(reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EINVAL", hint });
}
