/**
 * `dump` and `restore`: metadata as JSON, in an envelope that says what it is of:
 *
 *      { "dmkit": "dump", "version": 1, "format": "writeboost",
 *        "devices": { "cache": { "name": "cache.img", "size": 1073741824 } },
 *        "dump": what the format says }
 *
 * Invariants: what is written into a dump comes out of it again; nothing is written to a device before the whole
 * of a restore has succeeded on a copy in memory.
 */
import { readFile, stat } from "node:fs/promises";
import {
  BlockIoError,
  type Detected,
  type ImageDevices,
  type ImageFormat,
  type OfflineWork,
  type RestoreWork,
  MemoryOverlay,
  codeOf,
  ofStore,
  printableJson,
  storeAround,
} from "@dmkit/block-io";
import { waitsForWriter } from "../fifo.ts";
import { formatNamed } from "./detect.ts";
import type { OpenImage } from "./image.ts";

const VERSION = 1;
// Bytes: what the longest string of the engine holds.
const LARGEST = 512 * 1024 * 1024 - 32;

/** A dump that was read and is of the right shape; what is in it is for the format to judge. */
export interface DumpFile {
  readonly format: ImageFormat;
  /** Sizes in bytes by role. */
  readonly devices: Readonly<Record<string, number>>;
  readonly dump: unknown;
}

/** The JSON of an image. Throws `ENOTSUP` if its format has no dump, `EOVERFLOW` if it is too long. */
export async function dumpImage(
  { format, devices, references }: OpenImage,
  work: OfflineWork,
): Promise<string> {
  if (format.dump === undefined) throw unable(format, "dump");
  const dump = await format.dump(devices, work);
  requirePlain(dump, "dump");
  const facts = Object.entries(devices).map(([role, { size }]) => [role, { name: references[role], size }]);
  const file = {
    dmkit: "dump",
    version: VERSION,
    format: format.name,
    devices: Object.fromEntries(facts) as Record<string, unknown>,
    dump,
  };
  try {
    return `${printableJson(file, 1)}\n`;
  } catch (error) {
    throw new BlockIoError("the dump is longer than a text can be", { code: "EOVERFLOW", cause: error });
  }
}

/** Whether JSON can say all of it. */
function requirePlain(value: unknown, where: string): void {
  if (value === null || ["string", "boolean", "undefined"].includes(typeof value)) return;
  if (typeof value === "number" && Number.isFinite(value)) return;
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) {
      if (item === undefined) throw new TypeError(`${where}[${index}] has no value`);
      requirePlain(item, `${where}[${index}]`);
    }
    return;
  }
  if (typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
    for (const [name, item] of Object.entries(value)) requirePlain(item, `${where}.${name}`);
    return;
  }
  throw new TypeError(`${where} cannot be said in JSON`);
}

/** Throws `EFORMAT` for what is no dump, and what the system says of the file. */
export async function readDump(path: string, formats: readonly ImageFormat[]): Promise<DumpFile> {
  const refuse = (reason: string, hint?: string): BlockIoError =>
    new BlockIoError(reason, {
      code: "EFORMAT",
      device: path,
      hint: hint ?? "Give a file made by dmkit dump, or a backup: whole sectors of raw bytes.",
    });
  const value = parse(await readText(path), refuse);
  if (!isObject(value) || value["dmkit"] !== "dump") throw refuse("is no dump");
  if (value["version"] !== VERSION) {
    throw refuse(`is a dump of version ${shown(value["version"])}`, `This dmkit knows version ${VERSION}.`);
  }
  const { format: name, devices } = value;
  if (typeof name !== "string" || !isObject(devices) || value["dump"] === undefined) {
    throw refuse("is no whole dump");
  }
  if (!formats.some((format) => format.name === name)) {
    throw refuse(`is a dump of a format that is not known: ${shown(name)}`);
  }
  const format = formatNamed(name, formats);
  const sizes: Record<string, number> = {};
  for (const { name: role } of format.roles) {
    if (!Object.hasOwn(devices, role)) continue;
    const facts = devices[role];
    const size = isObject(facts) ? facts["size"] : undefined;
    if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) {
      throw refuse(`does not say how large its ${role} device is`);
    }
    sizes[role] = size;
  }
  return { format, devices: sizes, dump: value["dump"] };
}

async function readText(path: string): Promise<string> {
  try {
    const found = await stat(path);
    const hint = "Give a file made by: dmkit dump";
    if (waitsForWriter(path, found))
      throw new BlockIoError("is a FIFO, not a dump", { code: "EINVAL", device: path, hint });
    if (found.size <= LARGEST) return await readFile(path, "utf8");
    throw new BlockIoError("is too large", { code: "EOVERFLOW", device: path });
  } catch (error) {
    if (error instanceof BlockIoError) throw error;
    const directory = (error as { code?: unknown }).code === "EISDIR";
    const store = storeAround(path);
    throw new BlockIoError(directory ? "is a directory, not a dump" : "the dump cannot be read", {
      code: directory ? "EINVAL" : codeOf(error),
      device: path,
      cause: error,
      hint: store === undefined ? "Give a file made by: dmkit dump" : ofStore(store),
    });
  }
}

function parse(text: string, refuse: (reason: string) => BlockIoError): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw refuse("is not JSON");
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "none";
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

/**
 * Restores to copies in memory: what cannot be true is found out before anything is written. The roles that would
 * be written, with what would be on the device then. Throws `EINVAL` if the dump does not fit the devices, `ENOTSUP` if the
 * format has no restore, `EEXIST` without `force` for damaged metadata that show that they were used since.
 */
export async function tryRestore(
  { format, devices: sizes, dump }: DumpFile,
  devices: ImageDevices,
  work: RestoreWork,
): Promise<ReadonlyMap<string, Detected | undefined>> {
  const restore = format.restore?.bind(format);
  if (restore === undefined) throw unable(format, "restore");
  for (const [role, device] of Object.entries(devices)) {
    const size = sizes[role];
    if (size === undefined || size === device.size) continue;
    throw new BlockIoError(`has ${device.size} bytes, the dump is of a ${role} device of ${size}`, {
      code: "EINVAL",
      device: device.name,
      hint: "Restore it to the device it was taken from, or to one of the same size.",
    });
  }
  const after = new Map<string, Detected | undefined>();
  const roles = await tryOut(devices, async (copies) => {
    try {
      await restore(copies, dump, { ...work, progress: undefined });
      for (const [role, copy] of Object.entries(copies)) after.set(role, await format.detect(copy));
    } catch (error) {
      if (error instanceof BlockIoError || work.signal?.aborted === true) throw error;
      // A dump can be anything: what a format trips over is the dump's fault.
      throw new BlockIoError(`the dump makes no sense: ${String(error)}`, { code: "EINVAL", cause: error });
    }
  });
  return new Map([...after].filter(([role]) => roles.has(role)));
}

/** Runs work that writes on copies in memory. The roles it would write to. */
export async function tryOut(
  devices: ImageDevices,
  work: (copies: ImageDevices) => Promise<void>,
): Promise<ReadonlySet<string>> {
  const copies: Record<string, MemoryOverlay> = {};
  for (const [role, device] of Object.entries(devices)) copies[role] = new MemoryOverlay(device);
  await work(copies);
  return new Set(Object.keys(copies).filter((role) => copies[role]?.isChanged === true));
}

function unable(format: ImageFormat, what: string): BlockIoError {
  return new BlockIoError(`${format.name} cannot ${what} its metadata`, { code: "ENOTSUP" });
}
