/** Reading a snapshot: pages are put back where they were. */
import { type BlockDevice, crc32c, refuse } from "@dmkit/block-io";
import { kinds } from "../../core/page-table.ts";
import { PAGE } from "../../core/size-classes.ts";
import {
  ENTRY,
  LOST,
  type SnapshotEntry,
  type SnapshotHeader,
  decodeEntry,
  places,
} from "../../format/snapshot.ts";
import type { RunningDisk } from "../disk.ts";
import { moveOut } from "../reclaim.ts";
import { CHUNK, damaged, mismatch, roundUp } from "./place.ts";

/** Loads the copy at byte `start`. @param limit bytes of memory. Errors: `EFORMAT`, `EINVAL`, `ENOSPC`, those of the devices. */
export async function readPages(
  device: RunningDisk,
  source: BlockDevice,
  header: SnapshotHeader,
  start: number,
  limit: number,
): Promise<void> {
  const { pages } = device.parts.pages.table;
  if (header.pages > pages || header.bytes > header.pages * PAGE) throw damaged(source, start, "its header");
  const table = Buffer.alloc(roundUp(header.pages * ENTRY));
  await source.read(start + PAGE, table);
  const used = table.subarray(0, header.pages * ENTRY);
  if (crc32c(used) !== header.tableSum) throw damaged(source, start, "its table");
  const reader = new Reader(source, start + PAGE + table.length, header.bytes);
  const loader = new Loader(device, source, header.secondAlgorithm);
  for (let last = -1, at = 0; at < used.length; at += ENTRY) {
    const entry = decodeEntry(used, at);
    if (entry.page <= last || entry.page >= pages || (entry.length > PAGE && entry.length !== LOST))
      throw damaged(source, start, "its table");
    last = entry.page;
    if (entry.length === LOST) {
      device.parts.pages.putLost(entry.page);
      continue;
    }
    const bytes = entry.length === 0 ? Buffer.alloc(0) : await reader.next(entry.length);
    if (bytes === undefined || (entry.length > 0 && crc32c(bytes) !== entry.low))
      throw damaged(source, start, `page ${entry.page}`);
    await loader.put(entry, bytes);
  }
  loader.checkRoom(limit);
}

/** Puts pages back where they were. */
class Loader {
  readonly #device: RunningDisk;
  readonly #source: BlockDevice;
  readonly #secondAlgorithm: string;
  readonly #contents: Buffer = Buffer.alloc(PAGE);
  #near = 0;
  /** Pages that were on the backing device and found no room there. */
  #homeless = 0;

  constructor(device: RunningDisk, source: BlockDevice, secondAlgorithm: string) {
    this.#device = device;
    this.#source = source;
    this.#secondAlgorithm = secondAlgorithm;
  }

  async put(entry: SnapshotEntry, bytes: Buffer): Promise<void> {
    const { page, length, place, low, high } = entry;
    const { pages } = this.#device.parts;
    if (length === 0) return pages.putSame(page, low, high);
    const kind =
      place === places.recompressed ? this.#recompressed() : length === PAGE ? kinds.huge : kinds.compressed;
    if (!pages.put(page, kind, bytes, length)) {
      throw refuse(this.#source.name, "ENOSPC", "the snapshot does not fit into memory", undefined);
    }
    if (place === places.backing) await this.#moveOut(page);
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

  #recompressed(): typeof kinds.recompressed {
    const wanted = this.#secondAlgorithm;
    if (this.#device.parts.secondary?.name === wanted) return kinds.recompressed;
    throw mismatch(
      this.#source,
      `pages of the snapshot are compressed with ${wanted} as second algorithm`,
      `Open it with: recomp_algorithm ${wanted}`,
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
  readonly #source: BlockDevice;
  #at: number;
  #left: number;
  #chunk: Buffer = Buffer.alloc(0);

  constructor(source: BlockDevice, at: number, length: number) {
    this.#source = source;
    this.#at = at;
    this.#left = length;
  }

  /** Undefined if there are not as many. Good until the next call. */
  async next(length: number): Promise<Buffer | undefined> {
    if (length > this.#chunk.length + this.#left) return undefined;
    if (length > this.#chunk.length) {
      const fresh = Buffer.alloc(Math.min(CHUNK, roundUp(this.#left)));
      await this.#source.read(this.#at, fresh);
      this.#at += fresh.length;
      const useful = Math.min(this.#left, fresh.length);
      this.#left -= useful;
      this.#chunk = Buffer.concat([this.#chunk, fresh.subarray(0, useful)]);
    }
    const bytes = this.#chunk.subarray(0, length);
    this.#chunk = this.#chunk.subarray(length);
    return bytes;
  }
}
