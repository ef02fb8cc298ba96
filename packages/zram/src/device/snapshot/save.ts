/** Writing a snapshot: the table of pages, then their contents. */
import { type BlockDevice, crc32c, isGiven, refuse, sleep } from "@dmkit/block-io";
import { kinds } from "../../core/page-table.ts";
import { MAX_COMPRESSED, PAGE } from "../../core/size-classes.ts";
import {
  ENTRY,
  LOST,
  type SnapshotEntry,
  type SnapshotHeader,
  encodeEntry,
  needsVersion3,
} from "../../format/snapshot.ts";
import { type Form, readerOf } from "../algorithms.ts";
import type { RunningDisk } from "../disk.ts";
import { expand } from "../backed.ts";
import { isSound, readBlock } from "../lost.ts";
import { CHUNK, roundUp } from "./place.ts";

/**
 * Milliseconds that pages which are about to be lost are tried again for, all together: what does not answer may do so in a
 * moment (a cable, a path that fails over). Ending a server has ten times as long.
 */
const PATIENCE = 3000;
const PAUSE = 250;

/** What is left of it. */
interface Patience {
  left: number;
}

/**
 * Writes all pages from byte `start` on. Errors: those of the devices. @param mayLose what the backing device does not give
 * is lost, and told; otherwise it is an error.
 */
export async function writePages(
  device: RunningDisk,
  target: BlockDevice,
  start: number,
  mayLose: boolean,
): Promise<Pick<SnapshotHeader, "bytes" | "tableSum" | "isExtended" | "algorithms">> {
  const { pages, algorithms, rules } = device.parts;
  const table = new Appender(target, start);
  const data = new Appender(target, start + roundUp(pages.stored * ENTRY));
  const line = Buffer.alloc(ENTRY);
  let tableSum = 0;
  let bytes = 0;
  let lost = 0;
  let isMore = false;
  /** Whether pages are compressed with the algorithm, by priority. */
  const used = algorithms.map(() => false);
  const patience = { left: mayLose ? PATIENCE : 0 };
  const readable = await withKept(device);
  for (let page = 0; page < pages.table.pages; page += 1) {
    if (pages.table.kind(page) === kinds.absent) continue;
    const { entry, contents } = await describe(device, page, readable, mayLose, patience);
    encodeEntry(line, 0, entry);
    tableSum = crc32c(line, tableSum);
    bytes += contents.length;
    if (entry.length === LOST) lost += 1;
    else if (entry.length > 0 && entry.length < PAGE) {
      used[entry.priority] = true;
      isMore ||= needsVersion3(entry) || algorithms[entry.priority]?.dictionary !== undefined;
    }
    await table.append(line);
    await data.append(contents);
  }
  await table.end();
  await data.end();
  if (lost > pages.lost) {
    const what = `${lost - pages.lost} pages cannot be read from the backing device: the snapshot does not have them`;
    device.parts.environment.logger.log("error", `${device.name}: ${what}`, { device: target.name });
  }
  const isExtended = rules.isExtended(isMore);
  const forms = algorithms.map((one, priority) => ({
    // That of writes is always said.
    name: isExtended && priority > 0 && used[priority] !== true ? "" : (one?.name ?? ""),
    dictionary: used[priority] === true ? rules.namesDictionary(one?.dictionary) : undefined,
  }));
  return { bytes, tableSum, isExtended, algorithms: forms };
}

/**
 * Whether what each algorithm has compressed can be read later, by priority: a dictionary that was replaced or removed is in
 * memory still, and nowhere else. What was compressed with it is stored as it is, and told.
 */
async function withKept({ name, parts }: RunningDisk): Promise<readonly boolean[]> {
  const readable: boolean[] = [];
  for (const one of parts.algorithms) {
    const isKept = (await one?.isKept()) ?? true;
    readable.push(isKept);
    if (isKept) continue;
    const what = `${name}: the dictionary of ${one?.name} is another one, or gone: pages are saved as they are`;
    parts.environment.logger.log("warn", what, { dictionary: one?.dictionary?.toString("hex") });
  }
  return readable;
}

/** What is stored of a page: as it is in memory; one on the backing device as the first algorithm has it. */
async function describe(
  device: RunningDisk,
  page: number,
  readable: readonly boolean[],
  mayLose: boolean,
  patience: Patience,
): Promise<{ entry: SnapshotEntry; contents: Buffer }> {
  const { pages, primary, algorithms, rules } = device.parts;
  const { table } = pages;
  const kind = table.kind(page);
  const stored = (
    contents: Buffer,
    isBacked: boolean,
    by: number,
  ): { entry: SnapshotEntry; contents: Buffer } => {
    // The first one that reads it: so the snapshot names no more of them than it takes, and may do with an older version.
    const priority = contents.length === PAGE ? 0 : rules.saved(readerOf(algorithms, algorithms[by] as Form));
    const { length } = contents;
    return { entry: { page, length, isBacked, priority, low: crc32c(contents), high: 0 }, contents };
  };
  const nothing = (
    length: number,
    low: number,
    high: number,
  ): { entry: SnapshotEntry; contents: Buffer } => ({
    entry: { page, length, isBacked: false, priority: 0, low, high },
    contents: Buffer.alloc(0),
  });
  if (kind === kinds.same) return nothing(0, table.low(page), table.high(page));
  if (kind === kinds.lost) return nothing(LOST, 0, 0);
  const kept = table.length(page);
  const by = table.priority(page);
  const isReadable = kept === PAGE || readable[by] === true;
  if (kind === kinds.compressed && !isReadable) {
    const expanded = Buffer.alloc(PAGE);
    device.readWhole(page, expanded);
    return stored(expanded, false, 0);
  }
  // A copy: a message under way may move it.
  if (kind !== kinds.backing) return stored(Buffer.from(pages.bytes(page)), false, by);
  const whole = Buffer.alloc(PAGE);
  if (!(await readPatiently(device, page, whole, patience))) {
    if (mayLose) return nothing(LOST, 0, 0);
    throw refuse(
      device.name,
      "EIO",
      `page ${page} cannot be read as it was written from the backing device ${device.parts.backing?.name}, at byte ${table.low(page) * PAGE}`,
      "Try again: that may pass. If it does not, write the page anew, or discard it.",
      "read",
    );
  }
  if (!isReadable) {
    const bytes = Buffer.from(whole.subarray(0, kept));
    expand(device, page, bytes, by, whole);
    return stored(whole, true, 0);
  }
  if (kept < PAGE) return stored(whole.subarray(0, kept), true, by);
  if (readable[0] !== true) return stored(whole, true, 0);
  const stream = await primary.acquire();
  try {
    const length = stream.compressSync(whole, MAX_COMPRESSED);
    const contents = length < 0 ? whole : Buffer.from(stream.output.subarray(0, length));
    return stored(contents, true, 0);
  } finally {
    stream.release();
  }
}

/**
 * Whether the block of a page is given as it was written, sooner or later: this may be the last chance that the page has. One
 * that has rotted must not get a checksum in the snapshot by which it would be sound.
 */
async function readPatiently(
  device: RunningDisk,
  page: number,
  into: Buffer,
  patience: Patience,
): Promise<boolean> {
  const block = device.parts.pages.table.low(page);
  const reading = async (): Promise<boolean> =>
    (await isGiven(readBlock(device, block, into))) && isSound(device, page, into);
  if ((await reading()) || (await reading())) return true;
  while (patience.left > 0) {
    patience.left -= PAUSE;
    await sleep(device.parts.environment.clock, PAUSE);
    if (await reading()) return true;
  }
  return false;
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
