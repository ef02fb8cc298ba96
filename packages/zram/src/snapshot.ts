/**
 * The disk's contents on a device: written at close, read at open.
 *
 * Invariant: a snapshot that is not complete, or has rotted, is never taken for one: opening is refused. While a new
 * one is written the device holds none; what was there before is given up only then.
 */
import { type BlockDevice, BlockIoError, crc32c, isZero } from "@dmkit/block-io";
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
  states,
} from "./format/snapshot.ts";

const CHUNK = 1024 * 1024;

/** Bytes that a snapshot of a disk may take, at most. */
export function snapshotRoom(pages: number): number {
  return PAGE + roundUp(pages * ENTRY) + pages * PAGE;
}

/** Writes a snapshot; nothing else may use the disk. Errors: those of the device. */
export async function saveSnapshot(device: ZramDevice, target: BlockDevice): Promise<void> {
  const { pages, primary } = device.parts;
  const header: SnapshotHeader = {
    state: states.unfinished,
    diskSize: device.size,
    pages: pages.stored,
    bytes: 0,
    tableSum: 0,
    algorithm: primary.name,
  };
  await target.write(0, encodeHeader(header));
  await target.flush();
  const table = new Appender(target, PAGE);
  const data = new Appender(target, PAGE + roundUp(pages.stored * ENTRY));
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
  await target.flush();
  await target.write(0, encodeHeader({ ...header, state: states.complete, bytes, tableSum }));
  await target.flush();
}

/** What is stored of a page: pages that are elsewhere, or compressed otherwise, as the first algorithm has them. */
async function describe(
  device: ZramDevice,
  page: number,
): Promise<{ entry: SnapshotEntry; contents: Buffer }> {
  const { pages, primary } = device.parts;
  const { table } = pages;
  const kind = table.kind(page);
  const stored = (contents: Buffer): { entry: SnapshotEntry; contents: Buffer } => ({
    entry: { page, length: contents.length, low: crc32c(contents), high: 0 },
    contents,
  });
  if (kind === kinds.same) {
    const entry = { page, length: 0, low: table.low(page), high: table.high(page) };
    return { entry, contents: Buffer.alloc(0) };
  }
  // A copy: a message under way may move it.
  if (kind === kinds.compressed || kind === kinds.huge) return stored(Buffer.from(pages.bytes(page)));
  const whole = Buffer.alloc(PAGE);
  if (kind === kinds.backing) await device.readBlock(table.low(page), whole);
  else device.readWhole(page, whole);
  const stream = await primary.acquire();
  try {
    const length = stream.compressSync(whole, MAX_COMPRESSED);
    return stored(length < 0 ? whole : Buffer.from(stream.output.subarray(0, length)));
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

/** Fills an empty disk. Errors: `EFORMAT` unless it is a complete snapshot, or zeroes; `EINVAL`, `ENOSPC`. */
export async function loadSnapshot(device: ZramDevice, source: BlockDevice): Promise<void> {
  const first = Buffer.alloc(PAGE);
  await source.read(0, first);
  if (isZero(first)) return;
  const header = decodeHeader(first);
  if (header === undefined) {
    throw refuse(
      source,
      "there is something else on the device",
      "A device for snapshots begins with a block of zeroes.",
    );
  }
  if (header.state !== states.complete)
    throw refuse(
      source,
      "the snapshot was not completed",
      "Zero its first block to begin with an empty disk.",
    );
  checkHeader(device, source, header);
  const table = Buffer.alloc(roundUp(header.pages * ENTRY));
  await source.read(PAGE, table);
  const used = table.subarray(0, header.pages * ENTRY);
  if (crc32c(used) !== header.tableSum) throw damaged(source, "its table");
  const reader = new Reader(source, PAGE + table.length, header.bytes);
  for (let last = -1, at = 0; at < used.length; at += ENTRY) {
    const entry = decodeEntry(used, at);
    if (entry.page <= last || entry.page >= device.parts.pages.table.pages || entry.length > PAGE)
      throw damaged(source, "its table");
    last = entry.page;
    await loadPage(device, source, reader, entry);
  }
}

function checkHeader(device: ZramDevice, source: BlockDevice, header: SnapshotHeader): void {
  const { pages, primary } = device.parts;
  const mismatch = (reason: string, hint: string): BlockIoError =>
    new BlockIoError(reason, { code: "EINVAL", device: source.name, op: "open", hint });
  if (header.diskSize !== device.size)
    throw mismatch(`the snapshot is of a disk of ${header.diskSize} bytes`, "Open it with that size.");
  if (header.algorithm !== primary.name)
    throw mismatch(`the snapshot is compressed with ${header.algorithm}`, "Open it with that algorithm.");
  const bounded = header.pages <= pages.table.pages && header.bytes <= header.pages * PAGE;
  if (!bounded || snapshotRoom(pages.table.pages) > source.size) throw damaged(source, "its header");
}

async function loadPage(
  device: ZramDevice,
  source: BlockDevice,
  reader: Reader,
  { page, length, low, high }: SnapshotEntry,
): Promise<void> {
  const { pages } = device.parts;
  if (length === 0) return pages.putSame(page, low, high);
  const bytes = await reader.next(length);
  if (bytes === undefined || crc32c(bytes) !== low) throw damaged(source, `page ${page}`);
  const kind = length === PAGE ? kinds.huge : kinds.compressed;
  if (pages.put(page, kind, bytes, length)) return;
  throw new BlockIoError(`the snapshot does not fit into ${pages.slabs.limit} bytes`, {
    code: "ENOSPC",
    device: source.name,
    op: "open",
    hint: "Raise mem_limit.",
  });
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

function damaged(source: BlockDevice, what: string): BlockIoError {
  return refuse(
    source,
    `the snapshot is damaged: ${what}`,
    "Zero its first block to begin with an empty disk.",
  );
}

function refuse(source: BlockDevice, reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EFORMAT", device: source.name, op: "open", hint });
}
