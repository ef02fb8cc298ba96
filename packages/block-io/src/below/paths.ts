/**
 * What may be said behind a path, wherever a file or a disk is named:
 *
 *      disk.img?partition=2    that partition of it
 *      disk.img?raw            its bytes as they are, without a warning where they are an image of other programs
 *      disk.img?no-lock        without the lock that keeps other programs off
 *
 * Several are joined by `&`. A file that really has such a name is meant itself; where there is one of each, nothing is.
 */
import { type SettingsTable, checkSettings, setting } from "../contract/settings.ts";
import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import type { BlockDevice } from "../contract/device.ts";
import { type Logger, realEnvironment } from "../contract/environment.ts";
import { BlockIoError, refuse } from "../contract/errors.ts";
import { ByteAccess } from "../bytes/byte-access.ts";
import { shellQuote } from "../bytes/text.ts";
import type { FileDevice } from "../devices/file.ts";
import { type FileDeviceOptions, fileSettings, openFile } from "../devices/file-open.ts";
import { schemeOf } from "./schemes.ts";
import { type Origin, originAt, textOf } from "../devices/origin.ts";
import { type Holder, PROGRAM, claims } from "./claims.ts";
import { refuseKeptLock } from "./kept.ts";
import { unixAddress } from "../format/unix-address.ts";
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

/** What a reference without a scheme means. Throws `EINVAL` where it may be two things. */
export function parsePath(reference: string): PathWords {
  const [, path, said] = words.exec(reference) ?? [];
  const isFile = existsSync(reference);
  if (path !== undefined && said !== undefined && isFile && existsSync(path)) {
    const hint = `For the file of this very name: ${shellQuote(`${reference}?raw`)}. For "${path}", with "${said}": ${shellQuote(`${reference}&raw`)}`;
    throw refuse(reference, "EINVAL", "may mean two files, and both are there", hint);
  }
  if (path === undefined || said === undefined || isFile) return { path: reference, raw: false, lock: true };
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
export interface PathOptions extends Omit<FileDeviceOptions, "name" | "lock" | "mayLock"> {
  /** Whoever opens it, if that may have had it before: see kept.ts. */
  readonly holder?: Holder | undefined;
}

const { readOnly, createSize, preallocate, beside, environment } = fileSettings;
const pathSettings: SettingsTable<PathOptions> = {
  readOnly,
  createSize,
  preallocate,
  beside,
  environment,
  holder: setting.object,
};

/** Opens the whole file behind a path. Errors: those of {@link openFile}. */
export async function openPath(reference: string, given: PathOptions = {}): Promise<FileDevice> {
  const { holder, ...options } = checkSettings(pathSettings, given);
  const { path, raw, lock } = parsePath(reference);
  const { logger } = options.environment ?? realEnvironment;
  if (!lock && options.readOnly !== true)
    logger.log("warn", "a file is written to without a lock: nothing else may write to it", { file: path });
  const mayLock = (origin: Origin): void =>
    refuseKeptLock(reference, origin, options.readOnly !== true, holder);
  const device = await openFile(path, { ...options, lock, mayLock, name: reference }).catch(
    (error: unknown) => {
      throw known(error, reference, path);
    },
  );
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
  const { serve, uri } = waysTo(path, found);
  logger.log("warn", `a file is ${found.name}, and its bytes are not those of the disk in it`, {
    file: path,
    "to use the disk, serve it with": serve,
    "and give its URI": uri,
    "if its bytes are meant": shellQuote(`${path}?raw`),
  });
}

/** Commands as they are typed, for a disk in an image of other programs. */
function waysTo(path: string, { qemu }: ForeignFormat): { readonly serve: string; readonly uri: string } {
  const image = resolve(path);
  // qemu-nbd wants an absolute one; the system, one that is not long.
  const beside = `${image}.sock`;
  const socket = unixAddress(beside) === undefined ? join(tmpdir(), `${basename(image)}.sock`) : beside;
  const uri = `nbd+unix:///?socket=${encodeURIComponent(socket).replaceAll("%2F", "/")}`;
  return {
    serve: `qemu-nbd -t -f ${qemu} -k ${shellQuote(socket)} ${shellQuote(image)}`,
    uri: shellQuote(uri),
  };
}

async function foreignOf(device: BlockDevice): Promise<ForeignFormat | undefined> {
  const access = new ByteAccess(device);
  const length = Math.min(SEEN, device.size);
  const [start, end] = [Buffer.alloc(length), Buffer.alloc(length)];
  await access.read(0, start);
  await access.read(device.size - length, end);
  return foreignFormat({ size: device.size, start, end });
}

/** An error of {@link openFile}, with what is known here: of what was mistyped, who has it, and what it is. */
function known(error: unknown, reference: string, path: string): unknown {
  if (!(error instanceof BlockIoError)) return error;
  const { code, op, cause } = error;
  let { reason, hint } = error;
  if (code === "ENOENT" && reference.includes("?"))
    hint = "Behind a path there can be: ?partition=NUMBER, ?raw, ?no-lock; with & between them.";
  if (code === "EBUSY") {
    const holders = claims.holdersOf(originAt(path)?.name ?? "");
    const others = holders.length > 1 ? holders.filter((name) => name !== PROGRAM) : holders;
    if (others.length > 0) {
      reason = `is in use: ${others.join(", ")} of this very process ${others.length === 1 ? "has" : "have"} it, or a part of it, open`;
      hint =
        "Make it a device of its own, and have all stand on that (dm:NAME); or close the other one first.";
    }
  }
  const found = code === "EINVAL" ? foreignAt(path) : undefined;
  if (found !== undefined) {
    const { serve, uri } = waysTo(path, found);
    reason = `is ${found.name}, whose bytes are not those of the disk in it: ${reason}`;
    hint = `To use the disk, serve it with: ${serve} and give its URI: ${uri}`;
  }
  if (hint === error.hint) return error;
  return new BlockIoError(reason, { code, device: reference, op, cause, hint });
}

/** The same of a file that is no device: its size may be any. */
function foreignAt(path: string): ForeignFormat | undefined {
  try {
    const fd = openSync(path, "r");
    try {
      const { size } = fstatSync(fd);
      const length = Math.min(SEEN, size);
      const [start, end] = [Buffer.alloc(length), Buffer.alloc(length)];
      readSync(fd, start, 0, length, 0);
      readSync(fd, end, 0, length, size - length);
      return foreignFormat({ size, start, end });
    } finally {
      closeSync(fd);
    }
  } catch {
    return undefined;
  }
}
