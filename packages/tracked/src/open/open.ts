/**
 * Opens a tracked device: finds the superblock, or makes the bitmap device ready; reads the bitmaps; marks what nobody
 * knows any more. Before the first request everything that was marked is on stable storage, and the superblock says that
 * the device was not closed.
 */
import {
  type BlockDevice,
  type Environment,
  type Limits,
  type SettingsTable,
  contentsOf,
  nameProblem,
  realEnvironment,
  refuse,
  requireBlank,
  requireRoom,
  stackLimits,
  toBlockIoError,
  withCapabilities,
  witnessOf,
  checkSettings,
  setting,
  settingOf,
} from "@dmkit/block-io";
import { EpochTable } from "../core/epochs.ts";
import { type TrackedRules, trackedRules } from "../core/rules.ts";
import { TrackedDevice } from "../device/device.ts";
import { PageWriter } from "../device/page-writer.ts";
import { readPages } from "../device/pages.ts";
import type { Losses, TrackedParts } from "../device/parts.ts";
import { SuperblockRecord } from "../device/record.ts";
import { type Copy, currentSuperblock, readSuperblocks, writeOrder } from "../device/superblocks.ts";
import { type Geometry, PAGE_BITS_BYTES, bitmapDeviceSize, chunksOf } from "../format/geometry.ts";
import type { EpochRecord, Superblock } from "../format/superblock.ts";
import { DEFAULT_CHUNK, DEFAULT_SLOTS, trackedOptions } from "../options.ts";
import { createBitmaps, requireGeometry } from "./create.ts";

/** How a device is opened. */
export interface OpenTrackedOptions {
  /** Bytes that are tracked; default: all of the data device. */
  readonly size?: number | undefined;
  /** Default: `tracked`. */
  readonly name?: string;
  readonly environment?: Environment;
  readonly readOnly?: boolean;
  /** Bytes of a chunk, of new bitmaps; others must have the same. */
  readonly granularity?: number | undefined;
  /** Room for epochs, of new bitmaps; others must have the same. */
  readonly epochs?: number | undefined;
  /** Makes the bitmaps anew: the names of their epochs, in which everything is marked. */
  readonly reset?: readonly string[] | undefined;
  /** Make bitmaps of a device that is not blank. Default false. */
  readonly force?: boolean;
  /** Chunks. */
  readonly ahead?: number;
  /** Makes the device; for tests that put messages between requests. */
  readonly make?: (parts: TrackedParts) => TrackedDevice;
}

const openSettings: SettingsTable<OpenTrackedOptions> = {
  size: setting.integer(1, Number.MAX_SAFE_INTEGER),
  name: setting.anyText,
  environment: setting.environment,
  readOnly: setting.flag,
  granularity: settingOf(trackedOptions.granularity),
  epochs: settingOf(trackedOptions.epochs),
  reset: setting.texts,
  force: setting.flag,
  ahead: settingOf(trackedOptions.ahead),
  make: setting.call,
};

/** What was found on the bitmap device. */
interface Examined {
  readonly geometry: Geometry;
  /** Undefined: the bitmaps are to be made. */
  readonly superblock: Superblock | undefined;
  /** Of the superblock's copies. */
  readonly order: readonly number[];
}

/** Opens a device over two others, which stay the caller's. Errors: EINVAL, EFORMAT, EROFS, those of the devices. */
export async function openTracked(
  data: BlockDevice,
  bitmap: BlockDevice,
  options: OpenTrackedOptions = {},
  rules: TrackedRules = trackedRules,
): Promise<TrackedDevice> {
  const {
    name = "tracked",
    environment = realEnvironment,
    force = false,
  } = checkSettings(openSettings, options);
  const limits = limitsOf(data, bitmap, options.readOnly === true);
  const { geometry, superblock: found, order } = await examine(data, bitmap, options);
  const readOnly = limits.capabilities.readOnly;
  if (readOnly && found === undefined) {
    const reason = "there are no bitmaps on it, and it cannot be written to make them";
    const hint = data.limits.capabilities.readOnly
      ? "Nothing changes on a device that can only be read: use it by itself."
      : "Open it for writing once.";
    throw refuse(bitmap.name, "EROFS", reason, hint);
  }
  let superblock = found;
  if (superblock === undefined) {
    if (force) await requireBlank(bitmap, { force });
    const epochs = newEpochs(options.reset ?? [], environment.clock.wallTime());
    const bits = everyBit(geometry);
    const { random } = environment;
    const nextNumber = epochs.length + 1;
    superblock = await createBitmaps(bitmap, {
      geometry,
      random,
      epochs,
      nextNumber,
      bits: (_, page) => bits(page),
    });
  }
  const table = new EpochTable(geometry);
  const losses = await load(table, superblock, { data, bitmap, rules });
  warn(losses, table, name, environment);
  const record = new SuperblockRecord(bitmap, { superblock, order }, table, rules);
  const writer = new PageWriter(bitmap, table, superblock.uuid, rules);
  if (!readOnly) await secure(bitmap, writer, record);
  table.settleAll();
  const parts: TrackedParts = {
    name,
    data,
    bitmap,
    limits,
    table,
    writer,
    record,
    losses,
    tuning: { ahead: options.ahead ?? trackedOptions.ahead.default },
    environment,
    rules,
  };
  return options.make?.(parts) ?? new TrackedDevice(parts);
}

/** Throws what opening would throw, as far as it shows by reading. Errors: those of {@link openTracked}. */
export async function checkTracked(
  data: BlockDevice,
  bitmap: BlockDevice,
  options: OpenTrackedOptions = {},
): Promise<void> {
  limitsOf(data, bitmap, options.readOnly === true);
  await examine(data, bitmap, options);
}

function limitsOf(data: BlockDevice, bitmap: BlockDevice, readOnly: boolean): Limits {
  const limits = stackLimits([data]);
  const cannot = readOnly || bitmap.limits.capabilities.readOnly;
  return cannot ? withCapabilities(limits, { readOnly: true }) : limits;
}

async function examine(
  data: BlockDevice,
  bitmap: BlockDevice,
  { size = data.size, granularity, epochs, reset, force = false }: OpenTrackedOptions,
): Promise<Examined> {
  requireRoom(data, 0, size);
  const copies = await readSuperblocks(bitmap);
  const superblock = currentSuperblock(copies);
  const order = writeOrder(copies);
  if (superblock === undefined || reset !== undefined) {
    if (reset === undefined) await refuseLost(bitmap, copies);
    // Bitmaps that are damaged are made anew by `reset` alone; whatever else there is needs the word.
    if (!force && !(reset !== undefined && copies.some(({ ours }) => ours)))
      await requireBlank(bitmap, { force: false });
    const geometry = {
      size,
      chunk: granularity ?? superblock?.geometry.chunk ?? DEFAULT_CHUNK,
      slots: epochs ?? superblock?.geometry.slots ?? Math.max(DEFAULT_SLOTS, reset?.length ?? 0),
    };
    requireGeometry(bitmap, geometry);
    requireNames(bitmap, reset ?? [], geometry);
    return { geometry, superblock: undefined, order };
  }
  requireSame(bitmap, superblock.geometry, { size, granularity, epochs });
  requireRoom(bitmap, 0, bitmapDeviceSize(superblock.geometry));
  return { geometry: superblock.geometry, superblock, order };
}

/** Throws if there have been bitmaps, or may have been. Where formatting was interrupted there have not. */
async function refuseLost(bitmap: BlockDevice, copies: readonly Copy[]): Promise<void> {
  const unread = copies.find((copy) => copy.unread !== undefined)?.unread;
  if (unread !== undefined) throw lost(bitmap, unread.reason);
  if (!copies.some(({ ours }) => ours) || (await contentsOf(bitmap)) === undefined) return;
  throw lost(bitmap, copies.map(({ problem }) => problem).join("; "));
}

function lost(bitmap: BlockDevice, reason: string): Error {
  return refuse(
    bitmap.name,
    "EFORMAT",
    `the superblock of the bitmaps is lost: ${reason}`,
    "Nobody knows what has changed: make full backups. To make the bitmaps anew give reset NAME (in a table: 2 reset NAME), with the names of the epochs that backups will ask for: everything is marked in them.",
  );
}

function requireSame(
  bitmap: BlockDevice,
  { size, chunk, slots }: Geometry,
  given: {
    readonly size: number;
    readonly granularity: number | undefined;
    readonly epochs: number | undefined;
  },
): void {
  const refusal = (what: string, hint: string): Error => refuse(bitmap.name, "EINVAL", what, hint);
  if (given.size !== size) {
    throw refusal(
      `its bitmaps are of a device of ${size} bytes, and this one has ${given.size}`,
      "Check that it is the bitmap device of this disk. After a change of the length make the bitmaps anew with reset NAME.",
    );
  }
  if ((given.granularity ?? chunk) !== chunk) {
    const reason = `its bitmaps have a granularity of ${chunk} bytes, not ${given.granularity}`;
    throw refusal(reason, "Leave granularity out, or make the bitmaps anew with reset NAME.");
  }
  if ((given.epochs ?? slots) !== slots) {
    const reason = `its bitmaps have room for ${slots} epochs, not ${given.epochs}`;
    throw refusal(reason, "Leave epochs out, or make the bitmaps anew with reset NAME.");
  }
}

function requireNames(bitmap: BlockDevice, names: readonly string[], { slots }: Geometry): void {
  const refusal = (what: string): Error =>
    refuse(
      bitmap.name,
      "EINVAL",
      `reset: ${what}`,
      "Give names of epochs with commas between them, each once.",
    );
  for (const name of names) {
    const problem = nameProblem(name);
    if (problem !== undefined) throw refusal(problem);
  }
  if (new Set(names).size < names.length) throw refusal("a name is given twice");
  if (names.length > slots)
    throw refusal(`${names.length} names are given, and there is room for ${slots} epochs`);
}

function newEpochs(names: readonly string[], begun: number): EpochRecord[] {
  return names.map((name, slot) => ({ slot, number: slot + 1, name, begun, excess: true }));
}

/** The bits of pages in which everything is marked. */
function everyBit(geometry: Geometry): (page: number) => Uint8Array {
  return (page) => {
    const bits = new Uint8Array(PAGE_BITS_BYTES);
    const count = Math.min(PAGE_BITS_BYTES * 8, chunksOf(geometry) - page * PAGE_BITS_BYTES * 8);
    bits.fill(0xff, 0, Math.floor(count / 8));
    if (count % 8 !== 0) bits[Math.floor(count / 8)] = (1 << (count % 8)) - 1;
    return bits;
  };
}

/** Fills the table; marks what was lost, or may have changed unseen. */
async function load(
  table: EpochTable,
  superblock: Superblock,
  { data, bitmap, rules }: Pick<TrackedParts, "data" | "bitmap" | "rules">,
): Promise<Losses> {
  const { uuid, geometry } = superblock;
  let pages = 0;
  for (const recorded of superblock.epochs) {
    const epoch = table.add(recorded, true);
    const owner = { uuid, number: epoch.number };
    for await (const found of readPages(bitmap, geometry, epoch.slot, owner, rules.decode)) {
      for (const { page, bits } of found) {
        if (bits === undefined) pages += 1;
        if (bits !== undefined || rules.marksLost) table.load(epoch, page, bits);
      }
    }
  }
  const changed = table.epochs.length === 0 ? undefined : await whyChanged(superblock, data);
  if (changed !== undefined) table.markAll();
  return { pages, changed };
}

/** Why the data device may not be as it was at the clean close; undefined if it is, or there was none. */
export async function whyChanged(
  { clean, witness, geometry }: Superblock,
  data: BlockDevice,
): Promise<string | undefined> {
  if (!clean) return undefined;
  if (witness === undefined)
    return "the device could not be read when it was closed, so nobody knows whether it has changed since";
  try {
    const now = await witnessOf(data, geometry.size);
    if (now === witness) return undefined;
    return `the device was closed with the witness ${witness.slice(0, 16)} and has ${now.slice(0, 16)} now: it is another one, or was changed since without its bitmaps`;
  } catch (error) {
    return `whether the device has changed since it was closed cannot be read: ${toBlockIoError(error, {}).message}`;
  }
}

function warn({ pages, changed }: Losses, table: EpochTable, device: string, { logger }: Environment): void {
  const epochs = table.epochs.filter(({ excess }) => excess).map(({ name }) => name);
  const hint = "Backups by these epochs miss nothing, and copy more than has changed.";
  if (pages > 0)
    logger.log("warn", `${pages} pages of bitmaps are lost: everything they speak for is marked`, {
      device,
      epochs,
      hint,
    });
  if (changed !== undefined) logger.log("warn", `everything is marked: ${changed}`, { device, epochs, hint });
}

/**
 * What was marked is stable, then the superblock says that the device is in use. Its flush makes stable, too, what was
 * read and may have been in a cache below only.
 */
async function secure(bitmap: BlockDevice, writer: PageWriter, record: SuperblockRecord): Promise<void> {
  try {
    await writer.flush();
    await record.write();
  } catch (error) {
    const cause = toBlockIoError(error, { device: bitmap.name, op: "open" });
    throw refuse(
      bitmap.name,
      cause.code,
      `the bitmaps cannot be written, and nothing could be marked: ${cause.message}`,
      "Check the bitmap device, or copy it to one that is whole. Without bitmaps the disk can be served by itself; what is written then is marked as a whole later.",
    );
  }
}
