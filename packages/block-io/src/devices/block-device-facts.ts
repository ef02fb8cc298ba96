/** What Linux tells about a block device in /sys, where `stat` says nothing. */
import { type Stats, readFileSync } from "node:fs";
import { SECTOR } from "../device.ts";
import { BlockIoError } from "../errors.ts";
import { native } from "../native.ts";

function sysfs(stat: Stats): string {
  const device = stat.rdev;
  const major = (Math.floor(device / 256) & 0xfff) >>> 0;
  const minor = (device & 0xff) | (Math.floor(device / 2 ** 20) * 256);
  return `/sys/dev/block/${major}:${minor}`;
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
  if (native !== undefined) return native.sizeOf(fd);
  throw new BlockIoError("the size of this block device cannot be told", {
    code: "ENOTSUP",
    device: name,
    op: "open",
  });
}

/** Logical block size in bytes. */
export function blockDeviceSectorSize(stat: Stats): 512 | 4096 {
  return blockDeviceQueue(stat, "logical_block_size") === 4096 ? 4096 : 512;
}
