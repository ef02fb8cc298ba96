/**
 * Images of set-associative caches, and the places on them that can be damaged.
 *
 *      version 2   sector 0, last   superblock: magic, version u32, flags u32, uuid 16 (at 16), generation u64 (48),
 *                                   source sectors (56), frames (64), block size u32, ways u32, policy u32,
 *                                   entry start (88), data start (96), device sectors (104), dirty (112), crc (508)
 *                  sector 8 …       entries: 63 × u64 block · 4 + state (1 clean, 2 dirty), crc at 508
 *      version 1   last sector      frames u64, block size u32, ways u32, policy u32, checksum u32
 *                  before it        frames × u64 source sector
 */
import { assocCache, cacheOptions } from "@dmkit/assoc-cache";
import { type BlockDevice, parseOptions } from "@dmkit/block-io";
import { manualEnvironment, settle } from "@dmkit/block-io/testing";
import { crc, get64, u32, u64 } from "./bytes.ts";
import {
  type Base,
  type Contents,
  type Damage,
  type Devices,
  type Made,
  type Place,
  base,
  bytesFrom,
  deviceOf,
  place,
} from "./image.ts";
import { Oracle, SECTOR } from "./oracle.ts";

/** Of the source; a block of the cache has as many bytes as a block of the oracle. */
export const SOURCE_BLOCKS = 128;
export const FRAMES = 64;
/** Entry sectors for 64 frames are two, padded to eight. */
const DATA_START = 16;
const SIZE = (DATA_START + FRAMES * 8 + 8) * SECTOR;

export const first: Place = place("cache", 0, "the first superblock");
export const second: Place = place("cache", SIZE - SECTOR, "the second superblock");

/** The entry sector of frames 63 · number … */
export function entries(number: number): Place {
  return place("cache", (8 + number) * SECTOR, `entry sector ${number}`);
}

export function frame(number: number): Place {
  return place("cache", (DATA_START + number * 8) * SECTOR, `the data of frame ${number}`);
}

function entryAt(number: number): number {
  return (8 + Math.floor(number / 63)) * SECTOR + (number % 63) * 8;
}

interface Entry {
  readonly frame: number;
  readonly block: number;
  readonly state: "clean" | "dirty";
}

/** What the entries say, in the order of frames. */
export function entriesOf(cache: Buffer): Entry[] {
  return Array.from({ length: FRAMES }, (_, number) => {
    const value = get64(cache, entryAt(number));
    return {
      frame: number,
      block: Math.floor(value / 4),
      state: value % 4 === 2 ? "dirty" : "clean",
    } as const;
  }).filter(({ frame: number }) => get64(cache, entryAt(number)) !== 0);
}

/** The frame that holds a block. */
export function frameOf(cache: Buffer, block: number): number {
  const found = entriesOf(cache).find((entry) => entry.block === block);
  if (found === undefined) throw new Error(`block ${block} is not cached`);
  return found.frame;
}

/** Changes the entry of the frame in which a block is; its sector's checksum is made right. */
export function rewrite(block: number, value: number | bigint, what: string): Damage {
  return {
    text: `cache: the entry of block ${block} ${what}, and the checksum is right`,
    apply({ cache }) {
      const bytes = cache as Buffer;
      const number = frameOf(bytes, block);
      u64(value).copy(bytes, entryAt(number));
      sealEntries(bytes, Math.floor(number / 63));
    },
  };
}

/** Damages the entry sector in which the entry of a block is. */
export function flipEntryOf(block: number): Damage {
  return {
    text: `cache: bit 3 flipped in the entry of block ${block}`,
    apply({ cache }) {
      const bytes = cache as Buffer;
      const at = entryAt(frameOf(bytes, block)) + 1;
      bytes.writeUInt8(bytes.readUInt8(at) ^ 8, at);
    },
  };
}

/** Damages the data of the frame in which a block is. */
export function flipDataOf(block: number): Damage {
  return {
    text: `cache: bit 3 flipped in the data of block ${block}`,
    apply({ cache }) {
      const bytes = cache as Buffer;
      const at = frame(frameOf(bytes, block)).at + 1000;
      bytes.writeUInt8(bytes.readUInt8(at) ^ 8, at);
    },
  };
}

/** An entry in the first frame of a set that is empty. */
export function added(setOf: number, value: number | bigint, what: string): Damage {
  return {
    text: `cache: an empty frame beside block ${setOf} ${what}, and the checksum is right`,
    apply({ cache }) {
      const bytes = cache as Buffer;
      const set = Math.floor(frameOf(bytes, setOf) / 4);
      const number = [0, 1, 2, 3].map((way) => set * 4 + way).find((at) => get64(bytes, entryAt(at)) === 0);
      if (number === undefined) throw new Error("no frame of the set is empty");
      u64(value).copy(bytes, entryAt(number));
      sealEntries(bytes, Math.floor(number / 63));
    },
  };
}

function sealEntries(bytes: Buffer, sector: number): void {
  const at = entries(sector).at;
  const salt = Buffer.concat([bytes.subarray(16, 32), u32(sector)]);
  u32(crc(bytes.subarray(at, at + 508), crc(salt))).copy(bytes, at + 508);
}

/** Changes a field of one superblock, or both; the checksum is made right. */
export function field(at: number, value: Buffer, what: string, copies: readonly Place[]): Damage {
  return {
    text: `cache: ${copies.map(({ name }) => name).join(" and ")} ${what}, with the right checksum`,
    apply({ cache }) {
      for (const { at: start } of copies) {
        const sector = (cache as Buffer).subarray(start, start + SECTOR);
        value.copy(sector, at);
        u32(crc(sector.subarray(0, 508))).copy(sector, 508);
      }
    },
  };
}

/** Blocks the workload writes, three of four of them into sets with others. */
const BLOCKS = Array.from({ length: 40 }, (_, index) => (index * 37 + 5) % SOURCE_BLOCKS);

interface Wish {
  readonly policy: "write-back" | "write-through";
  readonly format?: "v1";
  readonly close?: boolean;
  readonly seed?: number;
  /** Before it is closed everything is written back. */
  readonly cleaned?: boolean;
}

async function make({ policy, format, close = false, seed = 1, cleaned = false }: Wish): Promise<Made> {
  const source = await deviceOf(Buffer.alloc(SOURCE_BLOCKS * 4096), "source");
  const cache = await deviceOf(Buffer.alloc(SIZE), "cache");
  const oracle = new Oracle(SOURCE_BLOCKS * 8);
  const device = await openWith(
    { source, cache },
    { policy, format, age_limit: 0, high_watermark: 100 },
    seed,
  );
  for (const [index, block] of BLOCKS.entries()) {
    const within = index % 5 === 0 ? 3 : 0;
    const count = within === 0 ? 8 : 2;
    const sector = block * 8 + within;
    await device.write(sector * SECTOR, oracle.write(sector, count, index % 3 === 0));
    // Read once, to be cached where writing alone does not do that.
    if (index % 4 === 1) await device.read(block * 4096, Buffer.alloc(4096));
    if (index % 10 === 9) {
      await settle();
      await device.flush();
      oracle.flush();
    }
  }
  // Written again, and not flushed.
  if (!close)
    for (const block of BLOCKS.slice(0, 3)) {
      const sector = block * 8 + 5;
      await device.write(sector * SECTOR, oracle.write(sector, 1));
    }
  if (cleaned) await (device as unknown as { message(words: string[]): Promise<unknown> }).message(["clean"]);
  await settle();
  if (close) {
    await device.close();
    oracle.flush();
  }
  const contents: Contents = { cache: await bytesFrom(cache), source: await bytesFrom(source) };
  await device.close();
  return { contents, oracle, open };
}

function openWith(
  { source, cache }: Devices,
  values: Readonly<Record<string, unknown>>,
  seed: number,
): Promise<BlockDevice> {
  if (source === undefined || cache === undefined) throw new Error("a device is missing");
  const given = {
    source: "source",
    cache: "cache",
    cache_size: FRAMES,
    associativity: 4,
    sequential_cutoff: 0,
    ...values,
  };
  const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const options = parseOptions(cacheOptions, defined, "cache");
  const lower = (name: string): Promise<BlockDevice> => Promise.resolve(name === "source" ? source : cache);
  const environment = manualEnvironment(seed);
  return assocCache.open(options, { name: "cache", size: SOURCE_BLOCKS * 4096, environment, lower });
}

function open(devices: Devices): Promise<BlockDevice> {
  return openWith(devices, { persistence: 1 }, 9);
}

export const writeBack: Base = base("cache, write-back", () => make({ policy: "write-back" }));
export const writeBackClosed: Base = base("cache, write-back, closed with dirty blocks", () =>
  make({ policy: "write-back", close: true }),
);
export const cleanClosed: Base = base("cache, write-back, closed with nothing dirty", () =>
  make({ policy: "write-back", close: true, cleaned: true }),
);
export const writeThrough: Base = base("cache, write-through", () => make({ policy: "write-through" }));
export const other: Base = base("another cache, write-back", () => make({ policy: "write-back", seed: 5 }));
export const version1: Base = base("cache of version 1, closed", () =>
  make({ policy: "write-through", format: "v1", close: true }),
);
export const version1Crashed: Base = base("cache of version 1, after a crash", () =>
  make({ policy: "write-through", format: "v1" }),
);

/** Of a cache of version 1. */
export const configuration: Place = place("cache", SIZE - SECTOR, "the configuration");
export const table: Place = place("cache", SIZE - 2 * SECTOR, "the table");

/** Makes the checksum of a table of version 1 right: the ones-complement sum of its 32-bit words. */
export const sumTable: Damage = {
  text: "cache: the checksum of the table is right",
  apply({ cache }) {
    const bytes = cache as Buffer;
    let sum = 0;
    for (let at = table.at; at < configuration.at; at += 4) sum += bytes.readUInt32LE(at);
    while (sum > 0xffff_ffff) sum = (sum % 0x1_0000_0000) + Math.floor(sum / 0x1_0000_0000);
    u32(sum).copy(bytes, configuration.at + 20);
  },
};

/** Changes the entry of the first frame in use of a version 1 table. */
export function firstOfTable(
  value: (stored: number, cache: Buffer) => number | bigint,
  what: string,
): Damage {
  return {
    text: `cache: the first entry of the table ${what}`,
    apply({ cache }) {
      const bytes = cache as Buffer;
      for (let at = table.at; at < configuration.at; at += 8) {
        const stored = get64(bytes, at);
        if (stored === 0) continue;
        u64(value(stored, bytes)).copy(bytes, at);
        return;
      }
    },
  };
}
