/**
 * What may be said behind a path, wherever a file or a disk is named:
 *
 *      disk.img?partition=2    that partition of it
 *      disk.img?raw            its bytes as they are, without a warning where they are an image of other programs
 *      disk.img?no-lock        without the lock that keeps other programs off
 *
 * Several are joined by `&`. A file that really has such a name is meant itself.
 */
import { existsSync } from "node:fs";
import type { BlockDevice } from "../contract/device.ts";
import { type Logger, realEnvironment } from "../contract/environment.ts";
import { BlockIoError, refuse } from "../contract/errors.ts";
import { ByteAccess } from "../bytes/byte-access.ts";
import { shellQuote } from "../bytes/text.ts";
import type { FileDevice } from "../devices/file.ts";
import { type FileDeviceOptions, openFile } from "../devices/file-open.ts";
import { schemeOf } from "./schemes.ts";
import { textOf } from "../devices/origin.ts";
import { type ForeignFormat, foreignFormat } from "../format/foreign.ts";

/** A path, and what was said behind it. */
export interface PathWords {
  readonly path: string;
  /** From 1. */
  readonly partition?: number;
  readonly raw: boolean;
  readonly lock: boolean;
}

const words =
  /^(.+?)\?((?:raw|no-lock|partition=[1-9]\d{0,2})(?:&(?:raw|no-lock|partition=[1-9]\d{0,2}))*)$/s;

/** What a reference without a scheme means. */
export function parsePath(reference: string): PathWords {
  const [, path, said] = words.exec(reference) ?? [];
  if (path === undefined || said === undefined || existsSync(reference))
    return { path: reference, raw: false, lock: true };
  const given = said.split("&");
  const number = given.find((word) => word.startsWith("partition="))?.slice("partition=".length);
  return {
    path,
    ...(number === undefined ? {} : { partition: Number(number) }),
    raw: given.includes("raw"),
    lock: !given.includes("no-lock"),
  };
}

/** The same reference without a lock; a URI has none. */
export function withoutLock(reference: string): string {
  if (schemeOf(reference) !== undefined) return reference;
  const { path, lock } = parsePath(reference);
  return lock ? `${reference}${path === reference ? "?" : "&"}no-lock` : reference;
}

/**
 * What a reference means to who makes that file: a word behind a path never becomes part of a new name. Throws `EINVAL`
 * for a partition, which only a disk that is there has.
 */
export function newPath(reference: string): PathWords {
  const words = parsePath(reference);
  if (words.partition === undefined) return words;
  const hint = `To make the file: ${shellQuote(words.path)}. It has partitions once they are made in it.`;
  throw refuse(reference, "EINVAL", "is a partition, which cannot be made as a file", hint);
}

/** How a path is opened. */
export type PathOptions = Omit<FileDeviceOptions, "name" | "lock">;

/** Opens the whole file behind a path. Errors: those of {@link openFile}. */
export async function openPath(reference: string, options: PathOptions = {}): Promise<FileDevice> {
  const { path, raw, lock } = parsePath(reference);
  const { logger } = options.environment ?? realEnvironment;
  if (!lock && options.readOnly !== true)
    logger.log("warn", "a file is written to without a lock: nothing else may write to it", { file: path });
  const device = await openFile(path, { ...options, lock, name: reference }).catch((error: unknown) => {
    throw withWords(error, reference);
  });
  if (!raw) await warnOfForeign(device, logger);
  return device;
}

const SEEN = 4096;

/** Those that have been warned about, by their origin. */
const warnedOf = new Set<string>();

/**
 * Warns of an image in a format of other programs, once. It is opened all the same, and so is a file that cannot be
 * read: whoever may write to a disk can put these bytes there, and must not be able to make it one that nobody opens.
 */
async function warnOfForeign(device: FileDevice, logger: Logger): Promise<void> {
  const { path } = device;
  const origin = textOf(device.origin);
  const found = warnedOf.has(origin) ? undefined : await foreignOf(device).catch(() => undefined);
  if (found === undefined) return;
  warnedOf.add(origin);
  const socket = `${path}.sock`;
  const uri = `nbd+unix:///?socket=${encodeURIComponent(socket).replaceAll("%2F", "/")}`;
  logger.log("warn", `a file is ${found.name}, and its bytes are not those of the disk in it`, {
    file: path,
    "to use the disk, serve it with": `qemu-nbd -t -f ${found.qemu} -k ${shellQuote(socket)} ${shellQuote(path)}`,
    "and give its URI": shellQuote(uri),
    "if its bytes are meant": shellQuote(`${path}?raw`),
  });
}

async function foreignOf(device: BlockDevice): Promise<ForeignFormat | undefined> {
  const access = new ByteAccess(device);
  const length = Math.min(SEEN, device.size);
  const [start, end] = [Buffer.alloc(length), Buffer.alloc(length)];
  await access.read(0, start);
  await access.read(device.size - length, end);
  return foreignFormat({ size: device.size, start, end });
}

/** Whoever has mistyped what stands behind a path finds no such file. */
function withWords(error: unknown, reference: string): unknown {
  if (!(error instanceof BlockIoError) || error.code !== "ENOENT" || !reference.includes("?")) return error;
  const { code, reason, device, op, cause } = error;
  const hint = "Behind a path there can be: ?partition=NUMBER, ?raw, ?no-lock; with & between them.";
  return new BlockIoError(reason, { code, device, op, cause, hint });
}
