/**
 * Reads a cache device without changing it: superblock, identity, the first block of every slot, and the
 * checksums of the segments that no flush is known to cover. What recovery, the checker, the dumper and the
 * read-only views start from.
 */
import { type BlockDevice, BlockIoError, ByteAccess } from "@dmkit/block-io";
import { BlockMap } from "./core/block-map.ts";
import { type Log, logRules } from "./core/log.ts";
import { type Dialect, dialects } from "./format/checksum.ts";
import {
  BLOCK,
  type Geometry,
  MAX_ORDER,
  MIN_SLOTS,
  SLOTS_START,
  geometryOf,
  slotOf,
  slotStart,
} from "./format/geometry.ts";
import { IDENTITY_START, type Identity, decodeIdentity } from "./format/identity.ts";
import {
  type MetadataProblem,
  checkMetadata,
  checksumHolds,
  decodeSegmentHeader,
  metablockBits,
  metablockSector,
  segmentSize,
} from "./format/segment.ts";
import { HEADER_START, RECORD_START, decodeHeader, decodeRecord } from "./format/superblock.ts";
import { sectorsOfBlock } from "./parts.ts";
import { inParallel } from "./writeback.ts";

export interface ScanOptions {
  /** Refuse any other; default: what is on the device. */
  readonly order?: number | undefined;
  /** Default: found out by checksums. */
  readonly dialect?: Dialect | undefined;
  /** Checksum every segment. */
  readonly thorough?: boolean | undefined;
  /** Called now and then with the slots read so far. */
  readonly progress?: ((slots: number, of: number) => void) | undefined;
}

/** What is known of a slot that is not simply intact or unused. */
export interface SlotProblem {
  readonly slot: number;
  readonly id: number;
  readonly problem: MetadataProblem | "checksum";
}

export interface ScannedLog extends Log {
  readonly geometry: Geometry;
  readonly dialect: Dialect;
  readonly identity: Identity | "blank" | "foreign";
  /** last_writeback_segment_id as recorded. */
  readonly record: number;
  /** Blocks of segments up to here are clean. */
  readonly lastWriteback: number;
  /** By slot: the id found, 0 for none. */
  readonly ids: Float64Array;
  /** By slot: whether the segment is whole, as far as that had to be found out. */
  readonly valid: Uint8Array;
  readonly problems: readonly SlotProblem[];
  /** Keys and bits of all slots are loaded; nothing has been adopted. */
  readonly map: BlockMap;
  /** Segments whose whole contents were read and checksummed. */
  readonly checksummed: number;
}

/** The superblock alone: `blank` if the device may be formatted. Throws `EFORMAT` for anything unknown. */
export async function readSuperblock(cache: BlockDevice): Promise<{ order: number | undefined } | "blank"> {
  if (cache.size < SLOTS_START) {
    throw refuse(cache, `${cache.size} bytes are too few for a cache device`, "Give at least a few MiB.");
  }
  const header = decodeHeader(await readBlock(cache, HEADER_START));
  if (header.kind === "blank") return "blank";
  if (header.kind === "writeboost") return { order: header.order };
  throw refuse(
    cache,
    `sector 0 holds neither zeroes nor a writeboost superblock (magic 0x${header.magic.toString(16)})`,
    "If nothing on it is needed any more, zero its first 4 KiB; nothing has been written.",
  );
}

/** @param backingSize bytes. */
export async function scan(
  cache: BlockDevice,
  backingSize: number,
  options: ScanOptions,
): Promise<ScannedLog> {
  const superblock = await readSuperblock(cache);
  if (superblock === "blank") throw refuse(cache, "the device is not formatted", "Format it first.");
  const identity = decodeIdentity(await readBlock(cache, IDENTITY_START));
  const order = orderOf(cache, superblock.order, identity, options);
  const geometry = geometryOf(cache.size, order);
  if (geometry.slots < MIN_SLOTS) {
    throw refuse(
      cache,
      `there is room for ${geometry.slots} segments, and at least ${MIN_SLOTS} are needed`,
      "The device has been truncated, or is too small for this segment_size_order.",
    );
  }
  const record = believed(decodeRecord(await readBlock(cache, RECORD_START)), identity);
  const scanner = new Scanner(cache, backingSize, geometry, options.progress);
  await scanner.readHeads();
  const dialect =
    options.dialect ??
    (typeof identity === "object" ? identity.dialect : await scanner.detect(superblock.order));
  const covered = typeof identity === "object" ? identity.coveredId : 0;
  await scanner.verify(dialect, options.thorough === true ? -1 : Math.max(record, covered));
  const { ids, valid, map, problems, checksummed } = scanner;
  const log = logRules.find({ ids, valid, tail: geometry.tail, record, covered });
  return {
    ...log,
    geometry,
    dialect,
    identity,
    record,
    lastWriteback: logRules.lastWriteback(log, record, geometry.slots),
    ids,
    valid,
    problems,
    map,
    checksummed,
  };
}

/**
 * The record without a checksum, held against its copy that has one. Too low costs some writing; too high would
 * make dirty segments clean. A crash may land one of the two only: then the older one counts.
 */
function believed(record: number, identity: Identity | "blank" | "foreign"): number {
  return typeof identity === "object" ? Math.min(record, identity.recordedId) : record;
}

/** Slots whose heads fit in one read. */
const CHUNK = 1024 * 1024;

class Scanner {
  readonly ids: Float64Array;
  readonly valid: Uint8Array;
  readonly map: BlockMap;
  readonly problems: SlotProblem[] = [];
  checksummed = 0;
  readonly #cache: BlockDevice;
  readonly #backingSize: number;
  readonly #geometry: Geometry;
  readonly #progress: ((slots: number, of: number) => void) | undefined;

  constructor(
    cache: BlockDevice,
    backingSize: number,
    geometry: Geometry,
    progress: ((slots: number, of: number) => void) | undefined,
  ) {
    const { slots, blocks } = geometry;
    this.ids = new Float64Array(slots);
    this.valid = new Uint8Array(slots);
    this.map = new BlockMap(slots, blocks, Math.ceil(backingSize / BLOCK));
    this.#cache = cache;
    this.#backingSize = backingSize;
    this.#geometry = geometry;
    this.#progress = progress;
  }

  /** Header and metablocks of every slot, in large reads where slots are small. */
  async readHeads(): Promise<void> {
    const { slots, slotSize } = this.#geometry;
    const together = slotSize <= 32 * 1024 ? Math.floor(CHUNK / slotSize) : 1;
    const starts = Array.from({ length: Math.ceil(slots / together) }, (_, index) => index * together);
    let read = 0;
    await inParallel(starts, 64, async (first) => {
      const count = Math.min(together, slots - first);
      const buffer = Buffer.allocUnsafe((count - 1) * slotSize + BLOCK);
      await this.#cache.read(slotStart(this.#geometry, first), buffer);
      for (let index = 0; index < count; index += 1) {
        const at = index * slotSize;
        this.#load(first + index, buffer.subarray(at, at + BLOCK));
      }
      read += count;
      if (this.#progress !== undefined && (read % 1024 < together || read === slots))
        this.#progress(read, slots);
    });
  }

  #load(slot: number, head: Buffer): void {
    const { slots, blocks } = this.#geometry;
    const backing = this.#backingSize / 512;
    // dirty_bits 0 is accepted in any dialect: 1.0.1 wrote it too, with the same meaning.
    const problem = checkMetadata(head, { slot, slots, blocks, backing, cleanAllowed: true });
    const { id, length } = decodeSegmentHeader(head);
    if (problem !== undefined) {
      if (problem !== "unused") this.problems.push({ slot, id, problem });
      // A slot that claims an id it could have must be invalidated, or it might be believed one day.
      if (problem === "length" || problem === "sector") this.ids[slot] = id;
      return;
    }
    this.ids[slot] = id;
    this.valid[slot] = 1;
    this.map.lengths[slot] = length;
    for (let at = 0; at < length; at += 1) {
      const index = slot * blocks + at;
      const block = metablockSector(head, at) / 8;
      const bits = metablockBits(head, at);
      this.map.keys[index] = block;
      this.map.valid[index] = bits === 0 ? sectorsOfBlock(this.#backingSize, block) : bits;
      this.map.dirty[index] = bits;
    }
  }

  /** Finds out the dialect by the checksums of a few segments, the newest first. */
  async detect(order: number | undefined): Promise<Dialect> {
    const candidates = [...this.ids.keys()]
      .filter((slot) => this.valid[slot] === 1)
      .sort((a, b) => (this.ids[b] as number) - (this.ids[a] as number));
    for (const slot of candidates.slice(0, 16)) {
      const segment = await this.#read(slot);
      for (const dialect of dialects) if (checksumHolds(dialect, segment)) return dialect;
    }
    return order === undefined ? "v2" : "classic";
  }

  /** Checksums whatever is above `covered` or may have been torn by the next use of its slot. */
  async verify(dialect: Dialect, covered: number): Promise<void> {
    const { slots, tail } = this.#geometry;
    const highest = this.ids.reduce((max, id) => Math.max(max, id), 0);
    const doubtful = [...this.ids.keys()].filter(
      (slot) =>
        this.valid[slot] === 1 &&
        (covered < 0 || logRules.needsChecksum(this.ids[slot] as number, highest, covered, slots, tail)),
    );
    await inParallel(doubtful, 4, async (slot) => {
      this.checksummed += 1;
      if (checksumHolds(dialect, await this.#read(slot))) return;
      this.valid[slot] = 0;
      this.problems.push({ slot, id: this.ids[slot] as number, problem: "checksum" });
    });
    this.problems.sort((a, b) => a.slot - b.slot);
  }

  async #read(slot: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafeSlow(segmentSize(this.map.lengths[slot] as number));
    await this.#cache.read(slotStart(this.#geometry, slot), buffer);
    return buffer;
  }
}

/** Older copies of a block with dirty sectors that no newer copy has. */
export interface Split {
  readonly block: number;
  /** Cache blocks and the segments they belong to, oldest first. */
  readonly copies: { readonly index: number; readonly id: number }[];
}

/**
 * Makes the newest copies of segments `first` … `last` those that are found; other slots are emptied.
 *
 * In a log of dmkit's own the newest copy, over what is durable on the backing device, is the whole truth
 * (write-path.ts). Older copies are then not dirty, even if nothing says that they were written back: to write
 * one again could take the backing device back in time. Logs of the original drivers promise no such thing:
 * there, dirty sectors that only an older copy has are returned, to be merged.
 */
export function adoptLog(
  { map, geometry, ids, identity }: ScannedLog,
  first: number,
  last: number,
  lastWritebackId: number,
): Split[] {
  const own = logRules.newestIsWhole(typeof identity === "object");
  const split = new Map<number, Split>();
  for (let slot = 0; slot < ids.length; slot += 1) {
    const id = ids[slot] as number;
    if (id < first || id > last) map.lengths[slot] = 0;
  }
  for (let id = first; id <= last; id += 1) {
    const slot = slotOf(geometry, id);
    const start = slot * map.blocks;
    const length = map.lengths[slot] as number;
    for (let index = start; index < start + length; index += 1) {
      if (id <= lastWritebackId) map.dirty[index] = 0;
      const block = map.keys[index] as number;
      const previous = map.find(block);
      map.adopt(index, previous);
      if (previous < 0) continue;
      if (own) map.dirty[previous] = 0;
      if (((map.dirty[previous] as number) & ~(map.valid[index] as number)) === 0) continue;
      const copy = { index: previous, id: ids[Math.floor(previous / map.blocks)] as number };
      const known = split.get(block);
      if (known === undefined) split.set(block, { block, copies: [copy] });
      else known.copies.push(copy);
    }
  }
  return [...split.values()];
}

function orderOf(
  cache: BlockDevice,
  stored: number | undefined,
  identity: Identity | "blank" | "foreign",
  options: ScanOptions,
): number {
  // Later drivers know order 10 only and leave the byte as it was.
  const v2 = options.dialect === "v2" || (typeof identity === "object" && identity.dialect === "v2");
  const order = v2 ? MAX_ORDER : (stored ?? (typeof identity === "object" ? identity.order : MAX_ORDER));
  if (typeof identity === "object" && identity.order !== order) {
    throw refuse(
      cache,
      `the superblock says segment_size_order ${order}, the identity record ${identity.order}`,
      "A byte of sector 0 has changed: put the order back there (byte 4). Nothing has been written.",
    );
  }
  if (options.order === undefined || options.order === order) return order;
  throw refuse(
    cache,
    `the device has segment_size_order ${order}, not ${options.order}`,
    `Leave segment_size_order out, or say ${order}. Nothing has been written.`,
  );
}

async function readBlock(cache: BlockDevice, offset: number): Promise<Buffer> {
  const block = Buffer.alloc(BLOCK);
  await new ByteAccess(cache).read(offset, block);
  return block;
}

export function refuse(device: BlockDevice, reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EFORMAT", device: device.name, op: "open", hint });
}
