/** A partition of a disk by its number, as Linux counts them: 1 to 4 of an MBR, from 5 on the logical ones; those of a GPT. */
import { ByteAccess } from "../bytes/byte-access.ts";
import { formatSize } from "../bytes/size.ts";
import { type BlockDevice, SECTOR } from "../contract/device.ts";
import { BlockIoError, refuse } from "../contract/errors.ts";
import { type Health, healthOf, worstHealth } from "../contract/health.ts";
import {
  type MbrEntry,
  type PartitionEntry,
  fits,
  isExtended,
  protectsGpt,
  readGptEntries,
  readGptHeader,
  readMbr,
} from "../format/partitions.ts";
import { LinearDevice } from "../targets/linear.ts";
import { type Claimant, Claims } from "./claims.ts";
import type { Access } from "./schemes.ts";

/** A partition, in bytes of its disk. */
export interface Found {
  readonly number: number;
  readonly offset: number;
  readonly length: number;
}

/** In the place of the lock of a file, which all who have partitions of it share: bytes of it are open like a file. */
export const partitionLocks: Claims = new Claims(false);

/** A partition; closing it gives the whole back, and its lock. */
export class PartitionDevice extends LinearDevice {
  readonly whole: BlockDevice;
  readonly number: number;
  readonly #giveBack: () => Promise<void>;
  #unlock = (): void => {};

  constructor(
    whole: BlockDevice,
    { number, offset, length }: Found,
    name: string,
    access: Access,
    giveBack: () => Promise<void>,
  ) {
    super(whole, offset, length, name, access === "read");
    this.whole = whole;
    this.number = number;
    this.#giveBack = giveBack;
  }

  /** Throws `EBUSY` where another claimant has a partition open that has bytes of this one, and one of them writes. */
  lock(claimant: Claimant): void {
    try {
      this.#unlock = partitionLocks.take({ claimant, device: this, use: "owns" });
    } catch (error) {
      if (!(error instanceof BlockIoError)) throw error;
      const hint =
        "Make the partition a device of its own, and have both stand on that: they can share it then.";
      throw refuse(this.name, "EBUSY", error.reason, hint);
    }
  }

  override health(): Health {
    return worstHealth([super.health(), healthOf(this.whole)]);
  }

  protected override doClose(): Promise<void> {
    this.#unlock();
    return this.#giveBack();
  }
}

/** Errors: `EFORMAT` (no table, or a damaged one), `ENOENT` with the partitions there are, those of reading. */
export async function findPartition(device: BlockDevice, name: string, number: number): Promise<Found> {
  const all = await partitionsOf(device);
  if (all === undefined) {
    throw refuse(name, "EFORMAT", "has no partition table", "Leave ?partition out to use all of it.");
  }
  const found = all.find((one) => one.number === number);
  if (found !== undefined) return found;
  const listed = all.map((one) => `${one.number} (${formatSize(one.length)})`).join(", ");
  throw refuse(name, "ENOENT", `there is no partition ${number}`, `There are: ${listed || "none"}.`);
}

/** All there are, with their numbers. Undefined where there is no table. Throws `EFORMAT` for one that cannot be right. */
export async function partitionsOf(device: BlockDevice): Promise<readonly Found[] | undefined> {
  const mbr = readMbr(await bytesAt(device, 0, Math.min(SECTOR, device.size)));
  if (mbr === undefined) return undefined;
  if (protectsGpt(mbr)) return gptOf(device);
  return mbrOf(device, mbr);
}

/** What an MBR counts are logical blocks of the disk, of 512 bytes or more. */
async function mbrOf(device: BlockDevice, entries: readonly MbrEntry[]): Promise<readonly Found[]> {
  const block = device.limits.logicalBlockSize;
  const blocks = Math.floor(device.size / block);
  const found: Found[] = [];
  const add = (number: number, from: number, entry: PartitionEntry, within: number): void => {
    if (!fits(entry, within)) throw damaged(device, `partition ${number} lies outside of it`);
    found.push({ number, offset: (from + entry.first) * block, length: entry.count * block });
  };
  for (const [index, entry] of entries.entries())
    if (entry.count > 0 && !isExtended(entry)) add(index + 1, 0, entry, blocks);
  const extended = entries.find((entry) => entry.count > 0 && isExtended(entry));
  if (extended === undefined) return found;
  if (!fits(extended, blocks)) throw damaged(device, "its extended partition lies outside of it");
  // Each table lies behind the one before: there is no circle.
  for (let at = 0, number = 5; ; number += 1) {
    const table = readMbr(await bytesAt(device, (extended.first + at) * block, SECTOR));
    if (table === undefined) throw damaged(device, `the table of partition ${number} is missing`);
    const [logical, next] = table;
    if (logical !== undefined && logical.count > 0)
      add(number, extended.first + at, logical, extended.count - at);
    if (next === undefined || next.count === 0) return found;
    if (!isExtended(next) || next.first <= at || next.first >= extended.count || number >= MOST)
      throw damaged(device, `what is said to follow partition ${number} cannot be there`);
    at = next.first;
  }
}

// More logical partitions nobody makes; each is a read.
const MOST = 128;

/** The first table, or the second one where that is damaged. */
async function gptOf(device: BlockDevice): Promise<readonly Found[]> {
  for (const block of [512, 4096]) {
    const blocks = Math.floor(device.size / block);
    for (const at of [1, blocks - 1]) {
      const entries = blocks < 3 ? undefined : await gptAt(device, at, block, blocks);
      if (entries !== undefined) return entries;
    }
  }
  throw damaged(device, "neither its GPT nor the second copy of that is whole");
}

async function gptAt(
  device: BlockDevice,
  at: number,
  block: number,
  blocks: number,
): Promise<readonly Found[] | undefined> {
  const header = readGptHeader(await bytesAt(device, at * block, block), at, blocks);
  if (header === undefined) return undefined;
  const length = header.count * header.entrySize;
  const entries = readGptEntries(await bytesAt(device, header.entriesAt * block, length), header);
  return entries?.flatMap((entry, index) => {
    if (entry.count === 0) return [];
    if (!fits(entry, blocks)) throw damaged(device, `partition ${index + 1} lies outside of it`);
    return [{ number: index + 1, offset: entry.first * block, length: entry.count * block }];
  });
}

async function bytesAt(device: BlockDevice, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  await new ByteAccess(device).read(offset, bytes);
  return bytes;
}

function damaged({ name }: BlockDevice, what: string): BlockIoError {
  return refuse(
    name,
    "EFORMAT",
    `its partition table is damaged: ${what}`,
    "Repair it first, e.g. with sfdisk or gdisk.",
  );
}
