/** What Linux tells about a block device in /sys, where `stat` says nothing. */
import { type Stats, readFileSync } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { SECTOR } from "../contract/device.ts";
import { refuse } from "../contract/errors.ts";
import { native } from "./native.ts";

function numberOf(device: number): string {
  const major = (Math.floor(device / 256) & 0xfff) >>> 0;
  const minor = (device & 0xff) | (Math.floor(device / 2 ** 20) * 256);
  return `${major}:${minor}`;
}

function sysfs(stat: Stats): string {
  return `/sys/dev/block/${numberOf(stat.rdev)}`;
}

function sysfsNumber(path: string): number | undefined {
  try {
    const value = Number(readFileSync(path, "utf8").trim());
    return Number.isSafeInteger(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** A limit of the device's queue. A partition has none of its own: it is the one of the disk above it. */
export function blockDeviceQueue(stat: Stats, attribute: string): number | undefined {
  const base = sysfs(stat);
  return sysfsNumber(`${base}/queue/${attribute}`) ?? sysfsNumber(`${base}/../queue/${attribute}`);
}

/** Bytes. */
export function blockDeviceSize(fd: number, stat: Stats, name: string): number {
  const sectors = sysfsNumber(`${sysfs(stat)}/size`);
  if (sectors !== undefined) return sectors * SECTOR;
  const calls = native();
  if (calls !== undefined) return calls.sizeOf(fd);
  throw refuse(name, "ENOTSUP", "the size of this block device cannot be told", undefined);
}

/** Logical block size in bytes. */
export function blockDeviceSectorSize(stat: Stats): 512 | 4096 {
  return blockDeviceQueue(stat, "logical_block_size") === 4096 ? 4096 : 512;
}

// Documentation/admin-guide/iostats.rst, field 10: milliseconds spent doing I/Os.
const IO_TICKS = 9;

/**
 * The disk that a block device is, or a file lies on, by its number; of a partition the whole disk, as what goes
 * on in its other partitions counts too. `busy` is undefined where the system keeps no account: overlays, network
 * file systems, RAM.
 */
export async function diskOf(stat: Stats): Promise<{ id: string; busy: number | undefined }> {
  const id = `disk ${numberOf(stat.isFile() ? stat.dev : stat.rdev)}`;
  const base = `/sys/dev/block/${numberOf(stat.isFile() ? stat.dev : stat.rdev)}`;
  try {
    const isPartition = await access(`${base}/partition`).then(
      () => true,
      () => false,
    );
    const text = await readFile(isPartition ? `${base}/../stat` : `${base}/stat`, "utf8");
    const disk = isPartition ? (await readFile(`${base}/../dev`, "utf8")).trim() : undefined;
    const busy = Number(text.trim().split(/\s+/)[IO_TICKS]);
    return { id: disk === undefined ? id : `disk ${disk}`, busy: Number.isFinite(busy) ? busy : undefined };
  } catch {
    return { id, busy: undefined };
  }
}
