/**
 * The disk's contents on a device: written at close, read at open.
 *
 * Invariants:
 *
 * - the device holds two copies, and one is written only while the other is the newest complete one: a crash at any
 *   time leaves that, so the disk is as at the last close that came to its end;
 * - a snapshot that is not complete, or has rotted, is never taken for one: if it should be the newest, opening is
 *   refused, and the older one is not taken in its place without a word;
 * - what could be open when it was written can be opened again with the same table: pages go back to the backing
 *   device and stay compressed as they were, and `mem_limit` keeps no page out that is in the snapshot.
 */
import { type BlockDevice, BlockIoError, crc32c, isZero, requireBlank } from "@dmkit/block-io";
import { kinds } from "./core/page-table.ts";
import { MAX_COMPRESSED, PAGE } from "./core/size-classes.ts";
import type { ZramDevice } from "./device.ts";
import {
  ENTRY,
  type SnapshotEntry,
  type SnapshotHeader,
  decodeEntry,
  decodeHeader,
  encodeEntry,
  encodeHeader,
  looksLikeHeader,
  places,
  states,
} from "./format/snapshot.ts";
import { moveOut } from "./reclaim.ts";

const CHUNK = 1024 * 1024;

/** Bytes that one copy of a disk may take, at most. */
export function snapshotRoom(pages: number): number {
  return PAGE + roundUp(pages * ENTRY) + pages * PAGE;
}

/** Where snapshots are kept, and which copy is the newest. */
export class Snapshots {
  readonly #device: BlockDevice;
  /** Bytes of a copy: the second one begins there. */
  readonly #room: number;
  /** Which copy is written next, and as what. */
  #next = 0;
  #generation = 1;
  /** The first copy is of a version that older programs would still take for the newest. */
  #outdated = false;

  /** @param pages of the disk. Throws `EINVAL` if two snapshots of it might not fit. */
  constructor(device: BlockDevice, pages: number) {
    this.#device = device;
    this.#room = snapshotRoom(pages);
    const needed = 2 * this.#room;
    if (device.size >= needed) return;
    throw new BlockIoError(`the device for snapshots has ${device.size} bytes and needs ${needed}`, {
      code: "EINVAL",
      device: device.name,
      op: "open",
      hint: `It takes two snapshots, so that a crash while one is written leaves the other. Make it larger; a file, which may be sparse: truncate -s ${needed} FILE`,
    });
  }

  /** Refuses a device that is neither blank nor has snapshots, unless `force` is given. Throws `EFORMAT`. */
  async prepare(force: boolean): Promise<void> {
    const device = this.#device;
    const starts = [0, this.#room];
    const first = Buffer.alloc(PAGE);
    for (const start of starts) {
      await device.read(start, first);
      // Damaged or not: what can be said of it is for loading to say.
      if (decodeHeader(first) !== undefined || looksLikeHeader(first)) return;
    }
    await requireBlank(device, { force });
    if (!force) return;
    for (const start of starts) await device.writeZeroes(start, PAGE);
    await device.flush();
  }

  /** Writes a snapshot beside the newest; nothing else may use the disk. Errors: those of the device. */
  async save(device: ZramDevice): Promise<void> {
    const target = this.#device;
    const start = this.#next * this.#room;
    const { pages, primary, secondary } = device.parts;
    const header: SnapshotHeader = {
      state: states.unfinished,
      diskSize: device.size,
      pages: pages.stored,
      bytes: 0,
      tableSum: 0,
      algorithm: primary.name,
      secondAlgorithm: secondary?.name ?? "",
      generation: this.#generation,
    };
    await target.write(start, encodeHeader(header));
    await target.flush();
    const written = await writePages(device, target, start + PAGE);
    await target.flush();
    await target.write(start, encodeHeader({ ...header, ...written, state: states.complete }));
    await target.flush();
    if (!this.#outdated) return;
    await target.write(0, encodeHeader({ ...header, generation: 0 }));
    await target.flush();
  }

  /**
   * Fills an empty disk from the newest snapshot. @param limit bytes of memory beyond which pages that were on the
   * backing device, and find no room there, are refused. Errors: `EFORMAT` unless it is a complete snapshot, or
   * zeroes; `EINVAL` (size, algorithms), `ENOSPC`.
   */
  async load(device: ZramDevice, limit: number): Promise<void> {
    const source = this.#device;
    const copies = [await this.#headerOf(0), await this.#headerOf(1)];
    for (const header of copies) if (header !== undefined) checkSize(device, source, header);
    const newest = newestOf(source, copies, this.#room);
    if (newest === undefined) return;
    const header = copies[newest] as SnapshotHeader;
    const other = copies[1 - newest];
    if (other !== undefined && other.generation > header.generation) {
      device.parts.environment.logger.log(
        "warn",
        `${device.name}: the last snapshot was not completed; the disk is as the one before has it`,
        { device: source.name },
      );
    }
    this.#next = 1 - newest;
    this.#generation = Math.max(header.generation, other?.generation ?? 0) + 1;
    this.#outdated = newest === 0 && header.generation === 0;
    await this.#read(device, header, newest * this.#room, limit);
  }

  /** The header of a copy; undefined if nothing was ever written there. */
  async #headerOf(copy: number): Promise<SnapshotHeader | undefined> {
    const source = this.#device;
    const at = copy * this.#room;
    const first = Buffer.alloc(PAGE);
    await source.read(at, first);
    if (isZero(first)) return undefined;
    const header = decodeHeader(first);
    if (header !== undefined) return header;
    if (looksLikeHeader(first)) throw damaged(source, at, "its header");
    throw refuse(
      source,
      `there is something else on the device, at byte ${at}`,
      "Give a device for snapshots that begins with a block of zeroes, and has another where its second half begins.",
    );
  }

  async #read(device: ZramDevice, header: SnapshotHeader, start: number, limit: number): Promise<void> {
    const source = this.#device;
    const { pages } = device.parts.pages.table;
    if (header.pages > pages || header.bytes > header.pages * PAGE)
      throw damaged(source, start, "its header");
    checkAlgorithms(device, source, header);
    const table = Buffer.alloc(roundUp(header.pages * ENTRY));
    await source.read(start + PAGE, table);
    const used = table.subarray(0, header.pages * ENTRY);
    if (crc32c(used) !== header.tableSum) throw damaged(source, start, "its table");
    const reader = new Reader(source, start + PAGE + table.length, header.bytes);
    const loader = new Loader(device, source, header.secondAlgorithm);
    for (let last = -1, at = 0; at < used.length; at += ENTRY) {
      const entry = decodeEntry(used, at);
      if (entry.page <= last || entry.page >= pages || entry.length > PAGE)
        throw damaged(source, start, "its table");
      last = entry.page;
      const bytes = entry.length === 0 ? Buffer.alloc(0) : await reader.next(entry.length);
      if (bytes === undefined || (entry.length > 0 && crc32c(bytes) !== entry.low))
        throw damaged(source, start, `page ${entry.page}`);
      await loader.put(entry, bytes);
    }
    loader.checkRoom(limit);
  }
}

/** Which copy is the newest complete one; undefined on a device that was never written to. Throws `EFORMAT`. */
function newestOf(
  source: BlockDevice,
  [first, second]: readonly (SnapshotHeader | undefined)[],
  room: number,
): 0 | 1 | undefined {
  if (first === undefined && second === undefined) return undefined;
  const [a, b] = [first, second].map((header) =>
    header?.state === states.complete ? header.generation : -1,
  ) as [number, number];
  if (a === b && a >= 0) throw damaged(source, room, "both copies claim to be the newest");
  if (a >= 0 || b >= 0) return a > b ? 0 : 1;
  const at = first === undefined ? room : 0;
  throw refuse(
    source,
    "the snapshot was not completed, and there is none before it",
    `To begin with an empty disk zero the ${PAGE} bytes at byte ${at}.`,
  );
}

async function writePages(
  device: ZramDevice,
  target: BlockDevice,
  start: number,
): Promise<Pick<SnapshotHeader, "bytes" | "tableSum">> {
  const { pages } = device.parts;
  const table = new Appender(target, start);
  const data = new Appender(target, start + roundUp(pages.stored * ENTRY));
  const line = Buffer.alloc(ENTRY);
  let tableSum = 0;
  let bytes = 0;
  for (let page = 0; page < pages.table.pages; page += 1) {
    if (pages.table.kind(page) === kinds.absent) continue;
    const { entry, contents } = await describe(device, page);
    encodeEntry(line, 0, entry);
    tableSum = crc32c(line, tableSum);
    bytes += contents.length;
    await table.append(line);
    await data.append(contents);
  }
  await table.end();
  await data.end();
  return { bytes, tableSum };
}

/** What is stored of a page: as it is in memory; one on the backing device as the first algorithm has it. */
async function describe(
  device: ZramDevice,
  page: number,
): Promise<{ entry: SnapshotEntry; contents: Buffer }> {
  const { pages, primary } = device.parts;
  const { table } = pages;
  const kind = table.kind(page);
  const stored = (contents: Buffer, place: number): { entry: SnapshotEntry; contents: Buffer } => ({
    entry: { page, length: contents.length, place, low: crc32c(contents), high: 0 },
    contents,
  });
  if (kind === kinds.same) {
    const entry = { page, length: 0, place: places.memory, low: table.low(page), high: table.high(page) };
    return { entry, contents: Buffer.alloc(0) };
  }
  // A copy: a message under way may move it.
  if (kind !== kinds.backing) {
    const place = kind === kinds.recompressed ? places.recompressed : places.memory;
    return stored(Buffer.from(pages.bytes(page)), place);
  }
  const whole = Buffer.alloc(PAGE);
  await device.readBlock(table.low(page), whole);
  const stream = await primary.acquire();
  try {
    const length = stream.compressSync(whole, MAX_COMPRESSED);
    const contents = length < 0 ? whole : Buffer.from(stream.output.subarray(0, length));
    return stored(contents, places.backing);
  } finally {
    stream.release();
  }
}

/** Collects bytes and writes them in large pieces. */
class Appender {
  readonly #target: BlockDevice;
  readonly #chunk: Buffer = Buffer.alloc(CHUNK);
  #at: number;
  #used = 0;

  constructor(target: BlockDevice, at: number) {
    this.#target = target;
    this.#at = at;
  }

  async append(bytes: Buffer): Promise<void> {
    for (let from = 0; from < bytes.length; ) {
      const count = bytes.copy(this.#chunk, this.#used, from);
      from += count;
      this.#used += count;
      if (this.#used === CHUNK) await this.#write(CHUNK);
    }
  }

  async end(): Promise<void> {
    const length = roundUp(this.#used);
    this.#chunk.fill(0, this.#used, length);
    if (length > 0) await this.#write(length);
  }

  async #write(length: number): Promise<void> {
    await this.#target.write(this.#at, this.#chunk.subarray(0, length));
    this.#at += length;
    this.#used = 0;
  }
}

function mismatch(source: BlockDevice, reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EINVAL", device: source.name, op: "open", hint });
}

// Before anything else: where the second copy lies depends on it.
function checkSize(device: ZramDevice, source: BlockDevice, { diskSize }: SnapshotHeader): void {
  if (diskSize === device.size) return;
  throw mismatch(source, `the snapshot is of a disk of ${diskSize} bytes`, "Open it with that size.");
}

function checkAlgorithms(device: ZramDevice, source: BlockDevice, header: SnapshotHeader): void {
  const { primary } = device.parts;
  if (header.algorithm === primary.name) return;
  throw mismatch(
    source,
    `the snapshot is compressed with ${header.algorithm}`,
    "Open it with that algorithm.",
  );
}

/** Puts pages back where they were. */
class Loader {
  readonly #device: ZramDevice;
  readonly #source: BlockDevice;
  readonly #secondAlgorithm: string;
  readonly #contents: Buffer = Buffer.alloc(PAGE);
  #near = 0;
  /** Pages that were on the backing device and found no room there. */
  #homeless = 0;

  constructor(device: ZramDevice, source: BlockDevice, secondAlgorithm: string) {
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
      throw new BlockIoError("the snapshot does not fit into memory", {
        code: "ENOSPC",
        device: this.#source.name,
        op: "open",
      });
    }
    if (place === places.backing) await this.#moveOut(page);
  }

  /** Throws `ENOSPC` if more pages are in memory than were, and more than the limit allows. */
  checkRoom(limit: number): void {
    const { slabs } = this.#device.parts.pages;
    if (this.#homeless === 0 || slabs.usedBytes <= limit) return;
    throw new BlockIoError(
      `${this.#homeless} pages of the snapshot were on a backing device and do not fit into ${limit} bytes of memory`,
      {
        code: "ENOSPC",
        device: this.#source.name,
        op: "open",
        hint: "Give a backing_dev with room for them, or raise mem_limit.",
      },
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

function roundUp(bytes: number): number {
  return Math.ceil(bytes / PAGE) * PAGE;
}

function damaged(source: BlockDevice, at: number, what: string): BlockIoError {
  return refuse(
    source,
    `the snapshot at byte ${at} is damaged: ${what}`,
    `To do without it zero ${PAGE} bytes there: then the one before it counts or, if there is none, the disk is empty.`,
  );
}

function refuse(source: BlockDevice, reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EFORMAT", device: source.name, op: "open", hint });
}
