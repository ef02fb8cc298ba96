/** Reading a snapshot: pages are put back where they were. */
import { type BlockDevice, SECTOR, crc32c, readTwice, refuse } from "@dmkit/block-io";
import { MAX_COMPRESSED, PAGE } from "../../core/size-classes.ts";
import {
  ENTRY,
  LOST,
  type SnapshotEntry,
  type SnapshotHeader,
  decodeEntry,
  needsVersion3,
} from "../../format/snapshot.ts";
import type { RunningDisk } from "../disk.ts";
import { moveOut } from "../reclaim/write-back.ts";
import { readingPriority } from "./forms.ts";
import { CHUNK, damaged, roundUp } from "./place.ts";

// Pages whose place is in the log.
const MOST_TOLD = 16;

/**
 * Loads the copy at byte `start`; returns in words which pages are damaged, or not given, if any: those are lost.
 * @param limit bytes of memory. Errors: `EFORMAT`, `EINVAL`, `ENOSPC`, those of the devices.
 */
export async function readPages(
  device: RunningDisk,
  source: BlockDevice,
  header: SnapshotHeader,
  start: number,
  limit: number,
): Promise<string | undefined> {
  const { pages } = device.parts.pages.table;
  if (header.pages > pages || header.bytes > header.pages * PAGE) throw damaged(source, start, "its header");
  const table = Buffer.alloc(roundUp(header.pages * ENTRY));
  if ((await readTwice(source, start + PAGE, table)).size > 0)
    throw damaged(source, start, "its table cannot be read", "EIO");
  const used = table.subarray(0, header.pages * ENTRY);
  if (crc32c(used) !== header.tableSum) throw damaged(source, start, "its table");
  const reader = new Reader(source, start + PAGE + table.length, header.bytes);
  const { clock } = device.parts.environment;
  device.parts.pages.table.time = clock.now();
  const loader = new Loader(device, source, header);
  const unread = { count: 0, first: "" };
  for (let last = -1, at = 0; at < used.length; at += ENTRY) {
    const entry = decodeEntry(used, at);
    if (entry === undefined || (needsVersion3(entry) && !header.isExtended))
      throw damaged(source, start, "its table");
    if (entry.page <= last || entry.page >= pages || !isLength(entry.length))
      throw damaged(source, start, "its table");
    last = entry.page;
    if (entry.length === LOST) {
      device.parts.pages.putLost(entry.page, false);
      continue;
    }
    const { at: place } = reader;
    const bytes = entry.length === 0 ? Buffer.alloc(0) : await reader.next(entry.length);
    if (bytes === undefined) throw damaged(source, start, `page ${entry.page}`);
    if (bytes === "not given" || (entry.length > 0 && crc32c(bytes) !== entry.low)) {
      device.parts.pages.putLost(entry.page, true);
      const what = `page ${entry.page} ${bytes === "not given" ? "cannot be read" : "is damaged"}, in sector ${Math.floor(place / SECTOR)} of the snapshot's device ${source.name}`;
      if (unread.count === 0) unread.first = what;
      if (unread.count < MOST_TOLD)
        device.parts.environment.logger.log("error", `${device.name}: ${what}`, { length: entry.length });
      unread.count += 1;
      continue;
    }
    await loader.put(entry, bytes);
    // How old it was nobody knows: its age begins now.
    device.parts.pages.table.touch(entry.page);
  }
  loader.checkRoom(limit);
  if (unread.count === 0) return undefined;
  return unread.first + (unread.count > 1 ? `, and ${unread.count - 1} others` : "");
}

/** Nothing is ever compressed to more than {@link MAX_COMPRESSED} bytes: the table in memory has no word for it. */
function isLength(length: number): boolean {
  return length <= MAX_COMPRESSED || length === PAGE || length === LOST;
}

/** Puts pages back where they were. */
class Loader {
  readonly #device: RunningDisk;
  readonly #source: BlockDevice;
  readonly #header: SnapshotHeader;
  readonly #contents: Buffer = Buffer.alloc(PAGE);
  #near = 0;
  /** Pages that were on the backing device and found no room there. */
  #homeless = 0;

  constructor(device: RunningDisk, source: BlockDevice, header: SnapshotHeader) {
    this.#device = device;
    this.#source = source;
    this.#header = header;
  }

  async put(entry: SnapshotEntry, bytes: Buffer): Promise<void> {
    const { page, length, isBacked, low, high } = entry;
    const { pages, algorithms } = this.#device.parts;
    if (length === 0) return pages.putSame(page, low, high);
    const priority =
      length === PAGE
        ? 0
        : readingPriority(this.#source, this.#header.algorithms, entry.priority, algorithms);
    if (!pages.put(page, bytes, length, priority)) {
      throw refuse(this.#source.name, "ENOSPC", "the snapshot does not fit into memory", undefined);
    }
    if (isBacked) await this.#moveOut(page);
  }

  /** Throws `ENOSPC` if more pages are in memory than were, and more than the limit allows. */
  checkRoom(limit: number): void {
    const { slabs } = this.#device.parts.pages;
    if (this.#homeless === 0 || slabs.usedBytes <= limit) return;
    throw refuse(
      this.#source.name,
      "ENOSPC",
      `${this.#homeless} pages of the snapshot were on a backing device and do not fit into ${limit} bytes of memory`,
      "Give a backing_dev with room for them, or raise mem_limit.",
    );
  }

  async #moveOut(page: number): Promise<void> {
    const { backing, pages } = this.#device.parts;
    const block = pages.blocks?.find(false, this.#near);
    if (backing === undefined || block === undefined || block === pages.blocks?.length) {
      this.#homeless += 1;
      return;
    }
    this.#near = block + 1;
    await moveOut(this.#device, backing, page, block, this.#contents).catch(() => (this.#homeless += 1));
  }
}

/** Reads bytes that lie one after the other. */
class Reader {
  /** Byte of the device that comes next. */
  at: number;
  readonly #source: BlockDevice;
  /** Where the next chunk begins. */
  #end: number;
  #left: number;
  #chunk: Buffer = Buffer.alloc(0);
  /** Sectors of the device that were not given. */
  readonly #missing: Set<number> = new Set();

  constructor(source: BlockDevice, at: number, length: number) {
    this.#source = source;
    this.at = at;
    this.#end = at;
    this.#left = length;
  }

  /** Undefined if there are not as many. Good until the next call. */
  async next(length: number): Promise<Buffer | "not given" | undefined> {
    if (length > this.#chunk.length + this.#left) return undefined;
    if (length > this.#chunk.length) {
      const fresh = Buffer.alloc(Math.min(CHUNK, roundUp(this.#left)));
      for (const sector of await readTwice(this.#source, this.#end, fresh))
        this.#missing.add(this.#end / SECTOR + sector);
      this.#end += fresh.length;
      const useful = Math.min(this.#left, fresh.length);
      this.#left -= useful;
      this.#chunk = Buffer.concat([this.#chunk, fresh.subarray(0, useful)]);
    }
    const bytes = this.#chunk.subarray(0, length);
    this.#chunk = this.#chunk.subarray(length);
    const first = Math.floor(this.at / SECTOR);
    this.at += length;
    if (this.#missing.size === 0) return bytes;
    for (let sector = first; sector * SECTOR < this.at; sector += 1)
      if (this.#missing.has(sector)) return "not given";
    return bytes;
  }
}
