/** A dump is text that anybody may have edited: every field is held against its range and against the devices. */
import { type BlockDevice, type BlockIoError, refuse } from "@dmkit/block-io";
import type { Image } from "./examine/findings.ts";
import { type Dialect, checksum, dialects } from "../format/checksum.ts";
import {
  BLOCK,
  type Geometry,
  MIN_SLOTS,
  SLOTS_START,
  geometryOf,
  geometryWith,
  plogSegmentSize,
  slotStart,
} from "../format/geometry.ts";
import { type Blocks, type Head, encodeHead, parseBlocks, roomBehind } from "../format/head.ts";
import {
  IDENTITY_START,
  type Identity,
  NO_UUID,
  NO_WITNESS,
  type StoredIdentity,
  decodeIdentity,
  encodeIdentity,
} from "../format/identity.ts";
import { type RecordHeader, encodeRecordHeader } from "../format/plog.ts";
import { START_NAME } from "../device/log/plog-place.ts";
import { checkMetadata } from "../format/segment.ts";
import {
  HEADER_START,
  RECORD_START,
  decodeHeader,
  encodeHeader,
  encodeRecord,
} from "../format/superblock.ts";

/** What a dump says, as bytes. */
export interface ParsedDump {
  readonly dialect: Dialect;
  readonly geometry: Geometry;
  /** Bytes that the backing device has at least; undefined where that is not known. */
  readonly backing: number | undefined;
  /** The first MiB. */
  readonly superblock: Buffer;
  /** The identity record in it, whether or not the fields of the dump say it. */
  readonly identity: StoredIdentity;
  readonly slots: ReadonlyMap<number, { readonly head: Head; readonly torn: boolean }>;
  /** By slot: heads that fields cannot say. */
  readonly raw: ReadonlyMap<number, Buffer>;
  /** What goes where on the plog device. */
  readonly plog: readonly { readonly offset: number; readonly bytes: Buffer }[];
  /** Where data of plog records is, and whether it is the right data. */
  readonly records: readonly {
    readonly offset: number;
    readonly bytes: number;
    readonly matches: (data: Buffer) => boolean;
  }[];
}

/** Throws `EINVAL`. */
export function parseDump(image: Image, dump: unknown): ParsedDump {
  return new DumpParser(image).parse(dump);
}

type Fields = Readonly<Record<string, unknown>>;

class DumpParser {
  readonly #image: Image;
  #geometry!: Geometry;
  #backing = Number.MAX_SAFE_INTEGER;

  constructor(image: Image) {
    this.#image = image;
  }

  parse(dump: unknown): ParsedDump {
    const { cache, plog } = this.#image;
    const fields = this.#object(dump, "the dump");
    this.#require(
      fields["format"] === "writeboost" && fields["version"] === 1,
      "format: not a writeboost dump",
    );
    // Larger is fine: the dump says how many slots there are.
    const bytes = this.#integer(fields, "cacheBytes", 0, Number.MAX_SAFE_INTEGER);
    this.#require(bytes <= cache.size, `cacheBytes: the cache device has ${cache.size} bytes`);
    const dialect = dialects.find((one) => one === fields["dialect"]);
    if (dialect === undefined) throw this.#refuse(`dialect: ${dialects.join(" or ")}`);
    const order = this.#integer(fields, "order", 4, 10);
    const room = geometryOf(cache.size, order).slots;
    this.#require(room >= MIN_SLOTS, `order: the cache device has room for ${room} slots`);
    this.#geometry = geometryWith(order, this.#integer(fields, "slots", MIN_SLOTS, room));
    if (fields["backingBytes"] !== null) {
      this.#backing = this.#integer(fields, "backingBytes", 512, Number.MAX_SAFE_INTEGER);
    }
    const superblock = Buffer.alloc(SLOTS_START);
    encodeHeader(order).copy(superblock, HEADER_START);
    encodeRecord(this.#integer(fields, "record", 0, Number.MAX_SAFE_INTEGER)).copy(superblock, RECORD_START);
    if (fields["identity"] !== null)
      encodeIdentity(this.#identity(fields["identity"])).copy(superblock, IDENTITY_START);
    const slots = this.#slots(this.#array(fields, "segments"));
    const raw = this.#raw(this.#array(fields, "raw"), superblock, slots);
    const header = decodeHeader(superblock.subarray(0, 512));
    this.#require(header.kind === "writeboost", "raw: sector 0 is no superblock");
    const given = fields["plog"];
    this.#require(
      (given === null) === (plog === undefined),
      given === null ? "plog: the dump has none" : "plog: the dump has one: give its device",
    );
    const { puts, records } =
      given === null ? { puts: [], records: [] } : this.#plog(this.#object(given, "plog"));
    const identity = decodeIdentity(superblock.subarray(IDENTITY_START, IDENTITY_START + BLOCK));
    return {
      dialect,
      geometry: this.#geometry,
      backing: fields["backingBytes"] === null ? undefined : this.#backing,
      superblock,
      identity,
      slots,
      raw,
      plog: puts,
      records,
    };
  }

  #identity(value: unknown): Identity {
    const fields = this.#object(value, "identity");
    const large = (name: string): number => this.#integer(fields, name, 0, Number.MAX_SAFE_INTEGER);
    const dialect = dialects.find((one) => one === fields["dialect"]);
    const { cache, plog, clean, version = 1, witness = NO_WITNESS, archive = NO_UUID } = fields;
    const uuid = /^[0-9a-f]{32}$/;
    if (dialect === undefined) throw this.#refuse(`identity.dialect: ${dialects.join(" or ")}`);
    if (typeof cache !== "string" || !uuid.test(cache))
      throw this.#refuse("identity.cache: 32 hexadecimal digits");
    if (typeof plog !== "string" || !uuid.test(plog))
      throw this.#refuse("identity.plog: 32 hexadecimal digits");
    if (typeof clean !== "boolean") throw this.#refuse("identity.clean: true or false");
    // Dumps of before there were versions say nothing of what came with the second.
    if (version !== 1 && version !== 2) throw this.#refuse("identity.version: 1 or 2");
    if (typeof witness !== "string" || !/^[0-9a-f]{64}$/.test(witness))
      throw this.#refuse("identity.witness: 64 hexadecimal digits");
    if (typeof archive !== "string" || !uuid.test(archive))
      throw this.#refuse("identity.archive: 32 hexadecimal digits");
    const slots = version === 1 ? 0 : large("slots");
    this.#require(
      slots === 0 || slots === this.#geometry.slots,
      "identity.slots: not as many as the dump has",
    );
    return {
      version,
      dialect,
      order: this.#integer(fields, "order", 0, 255),
      clean,
      cache,
      plog,
      backingSize: large("backingSize"),
      backingSample: this.#integer(fields, "backingSample", 0, 0xffff_ffff),
      plogSegments: this.#integer(fields, "plogSegments", 0, 0xffff_ffff),
      coveredId: large("coveredId"),
      lastId: large("lastId"),
      recordedId: large("recordedId"),
      slots,
      plogSize: version === 1 ? 0 : large("plogSize"),
      nameAtStart: version !== 1 && fields["nameAtStart"] === true,
      witness,
      archive,
      ...(version !== 1 && fields["through"] === true ? { through: true } : {}),
    };
  }

  #slots(entries: readonly unknown[]): Map<number, { head: Head; torn: boolean }> {
    const { slots, blocks } = this.#geometry;
    const backing = this.#backing / 512;
    const known = new Map<number, { head: Head; torn: boolean }>();
    for (const [index, entry] of entries.entries()) {
      const where = `segments[${index}]`;
      const fields = this.#object(entry, where);
      const slot = this.#integer(fields, "slot", 0, slots - 1);
      const { torn } = fields;
      const parsed = this.#blocks(fields["blocks"], `${where}.blocks`, blocks);
      const beyond = this.#blocks(
        fields["beyond"] ?? "",
        `${where}.beyond`,
        roomBehind(parsed.sectors.length),
      );
      this.#require(torn === undefined || torn === true, `${where}.torn: true or absent`);
      const head = {
        id: this.#integer(fields, "id", 1, Number.MAX_SAFE_INTEGER),
        checksum: this.#integer(fields, "checksum", 0, 0xffff_ffff),
        ...parsed,
        beyond,
      };
      const bounds = { slot, slots, blocks, backing, cleanAllowed: true };
      const problem = checkMetadata(encodeHead(head), bounds);
      this.#require(problem === undefined, `${where}: the ${problem} cannot be right`);
      this.#require(!known.has(slot), `${where}.slot: ${slot} is there twice`);
      known.set(slot, { head, torn: torn === true });
    }
    return known;
  }

  #blocks(text: unknown, where: string, most: number): Blocks {
    const parsed = typeof text === "string" ? parseBlocks(text, most) : undefined;
    if (parsed === undefined) throw this.#refuse(`${where}: not a list of at most ${most} blocks`);
    return parsed;
  }

  /** Bytes that fields cannot say, over the superblock's or instead of a slot's. */
  #raw(
    entries: readonly unknown[],
    superblock: Buffer,
    slots: ReadonlyMap<number, unknown>,
  ): Map<number, Buffer> {
    const { slotSize, slots: count } = this.#geometry;
    const heads = new Map<number, Buffer>();
    for (const [index, entry] of entries.entries()) {
      const where = `raw[${index}]`;
      const fields = this.#object(entry, where);
      const offset = this.#integer(fields, "offset", 0, slotStart(this.#geometry, count) - BLOCK);
      if (offset < SLOTS_START) {
        this.#require(offset % 512 === 0, `${where}.offset: not a sector`);
        this.#bytes(fields, where, 512).copy(superblock, offset);
        continue;
      }
      const slot = (offset - SLOTS_START) / slotSize;
      this.#require(
        Number.isInteger(slot) && !slots.has(slot) && !heads.has(slot),
        `${where}.offset: not the head of a slot of its own`,
      );
      heads.set(slot, this.#bytes(fields, where, BLOCK));
    }
    return heads;
  }

  #plog(fields: Fields): { puts: ParsedDump["plog"][number][]; records: ParsedDump["records"][number][] } {
    const plog = this.#image.plog as BlockDevice;
    const total = this.#integer(fields, "bytes", 512, Number.MAX_SAFE_INTEGER);
    this.#require(
      total <= plog.size && total % 512 === 0,
      `plog.bytes: the plog device has ${plog.size} bytes`,
    );
    const size = plogSegmentSize(this.#geometry.order);
    const fit = Math.floor(total / size);
    const puts: ParsedDump["plog"][number][] = [];
    const records: ParsedDump["records"][number][] = [];
    const mentioned = new Set<number>();
    for (const [index, entry] of this.#array(fields, "segments").entries()) {
      const where = `plog.segments[${index}]`;
      const given = this.#object(entry, where);
      const segment = this.#integer(given, "segment", 0, fit - 1);
      this.#require(!mentioned.has(segment), `${where}.segment: ${segment} is there twice`);
      mentioned.add(segment);
      let at = 0;
      for (const record of this.#array(given, "records")) {
        const header = this.#record(record, where);
        const bytes = header.length * 512;
        this.#require(bytes <= size - at - 512, `${where}: its records do not fit into a plog segment`);
        const offset = segment * size + at;
        puts.push({ offset, bytes: encodeRecordHeader(header) });
        records.push({
          offset: offset + 512,
          bytes,
          matches: (data) => checksum("classic", data) === header.checksum,
        });
        at += 512 + bytes;
      }
      const after =
        given["after"] === undefined ? Buffer.alloc(512) : this.#bytes({ bytes: given["after"] }, where, 512);
      if (at < size) puts.push({ offset: segment * size + at, bytes: after });
    }
    for (let segment = 0; segment < fit; segment += 1) {
      if (!mentioned.has(segment)) puts.push({ offset: segment * size, bytes: Buffer.alloc(512) });
    }
    this.#plogName(fields["identity"], { end: total - fit * size >= 512 ? total - 512 : undefined, puts });
    return { puts, records };
  }

  /** At the end of the plog, or else in its first sector, which is among `puts` already. */
  #plogName(
    given: unknown,
    { end, puts }: { readonly end: number | undefined; readonly puts: ParsedDump["plog"][number][] },
  ): void {
    const bytes = (size: number): Buffer =>
      given === null
        ? Buffer.alloc(size)
        : this.#bytes(this.#object(given, "plog.identity"), "plog.identity", size);
    if (end !== undefined) puts.push({ offset: end, bytes: bytes(512) });
    else if (given !== null)
      bytes(512 - START_NAME).copy(puts.find(({ offset }) => offset === 0)?.bytes as Buffer, START_NAME);
  }

  #record(value: unknown, where: string): RecordHeader {
    const fields = this.#object(value, `${where}.records`);
    return {
      id: this.#integer(fields, "id", 1, Number.MAX_SAFE_INTEGER),
      sector: this.#integer(fields, "sector", 0, Math.floor(this.#backing / 512)),
      checksum: this.#integer(fields, "checksum", 0, 0xffff_ffff),
      index: this.#integer(fields, "index", 0, this.#geometry.blocks - 1),
      length: this.#integer(fields, "length", 1, 8),
    };
  }

  /** `size` bytes: base64, and zeroes behind it. */
  #bytes(fields: Fields, where: string, size: number): Buffer {
    const { bytes: text } = fields;
    const bytes = Buffer.alloc(size);
    const most = Math.ceil(size / 3) * 4;
    if (typeof text !== "string" || text.length > most || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) {
      throw this.#refuse(`${where}.bytes: not base64 of at most ${size} bytes`);
    }
    const given = Buffer.from(text, "base64");
    this.#require(given.length <= size, `${where}.bytes: more than ${size} bytes`);
    given.copy(bytes);
    return bytes;
  }

  #object(value: unknown, where: string): Fields {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw this.#refuse(`${where}: not an object`);
    return value as Fields;
  }

  #array(fields: Fields, name: string): readonly unknown[] {
    const value = fields[name];
    if (!Array.isArray(value)) throw this.#refuse(`${name}: not a list`);
    return value;
  }

  #integer(fields: Fields, name: string, min: number, max: number): number {
    const value = fields[name];
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    throw this.#refuse(`${name}: ${JSON.stringify(value)} is not a whole number in ${min} … ${max}`);
  }

  #require(holds: boolean, reason: string): void {
    if (!holds) throw this.#refuse(reason);
  }

  #refuse(reason: string): BlockIoError {
    const hint = "Give a dump of this very cache device. Nothing has been written.";
    return refuse(this.#image.cache.name, "EINVAL", reason, hint, "write");
  }
}
