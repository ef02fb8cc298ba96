/**
 * What may be said behind a path, wherever a file or a disk is named:
 *
 *      disk.img?partition=2    that partition of it
 *      disk.img?raw            its bytes as they are, although they are an image in a format of other programs
 *      disk.img?no-lock        without the lock that keeps other programs off
 *
 * Several are joined by `&`. A file that really has such a name is meant itself.
 */
import { existsSync } from "node:fs";
import type { BlockDevice } from "../contract/device.ts";
import { realEnvironment } from "../contract/environment.ts";
import { BlockIoError, refuse } from "../contract/errors.ts";
import { ByteAccess } from "../bytes/byte-access.ts";
import { shellQuote } from "../bytes/text.ts";
import type { FileDevice } from "../devices/file.ts";
import { type FileDeviceOptions, openFile } from "../devices/file-open.ts";
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

/** The same path without a lock. */
export function withoutLock(reference: string): string {
  const { path, lock } = parsePath(reference);
  return lock ? `${reference}${path === reference ? "?" : "&"}no-lock` : reference;
}

/** How a path is opened. */
export interface PathOptions extends Omit<FileDeviceOptions, "name" | "lock"> {
  /** Whatever it holds: for who looks what that is, or writes over it. Default false. */
  readonly anyFormat?: boolean;
}

/**
 * Opens the whole file behind a path. Errors: those of {@link openFile}; `EFORMAT` for an image in a format of other
 * programs: to a client its bytes would be a disk that they are not.
 */
export async function openPath(reference: string, options: PathOptions = {}): Promise<FileDevice> {
  const { path, raw, lock } = parsePath(reference);
  const { anyFormat = false, ...rest } = options;
  if (!lock && options.readOnly !== true) {
    const { logger } = options.environment ?? realEnvironment;
    logger.log("warn", "a file is written to without a lock: nothing else may write to it", { file: path });
  }
  const device = await openFile(path, { ...rest, lock, name: reference }).catch((error: unknown) => {
    throw withWords(error, reference);
  });
  try {
    const found = raw || anyFormat ? undefined : await foreignOf(device);
    if (found !== undefined) throw foreign(reference, path, found);
    return device;
  } catch (error) {
    await device.close().catch(() => {});
    throw error;
  }
}

const SEEN = 4096;

async function foreignOf(device: BlockDevice): Promise<ForeignFormat | undefined> {
  const access = new ByteAccess(device);
  const length = Math.min(SEEN, device.size);
  const [start, end] = [Buffer.alloc(length), Buffer.alloc(length)];
  await access.read(0, start);
  await access.read(device.size - length, end);
  return foreignFormat({ size: device.size, start, end });
}

function foreign(reference: string, path: string, { name, qemu }: ForeignFormat): BlockIoError {
  const socket = `${path}.sock`;
  const uri = `nbd+unix:///?socket=${encodeURIComponent(socket).replaceAll("%2F", "/")}`;
  return refuse(
    reference,
    "EFORMAT",
    `is ${name}, and not the disk that is in it`,
    [
      "To use the disk, serve it with",
      `  qemu-nbd -t -f ${qemu} -k ${shellQuote(socket)} ${shellQuote(path)}`,
      `and give its URI: ${shellQuote(uri)}`,
      `To use the bytes of the file as they are: ${shellQuote(`${path}?raw`)}`,
    ].join("\n"),
  );
}

/** Whoever has mistyped what stands behind a path finds no such file. */
function withWords(error: unknown, reference: string): unknown {
  if (!(error instanceof BlockIoError) || error.code !== "ENOENT" || !reference.includes("?")) return error;
  const { code, reason, device, op, cause } = error;
  const hint = "Behind a path there can be: ?partition=NUMBER, ?raw, ?no-lock; with & between them.";
  return new BlockIoError(reason, { code, device, op, cause, hint });
}
