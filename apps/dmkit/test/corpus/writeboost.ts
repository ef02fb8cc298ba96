/**
 * writeboost images, and the places on them that can be damaged.
 *
 *      cache   0         magic u32, order u8            plog   segments of 9·B sectors
 *              4096      identity record                       record: id u64, sector u64, crc u32, idx u8, len u8
 *              2047·512  last_writeback id u64                 last sector: copy of the identity record
 *              1 MiB     slot (id − 1) mod N: id u64, crc u32, length u8; 512: metablocks; 4096: data
 */
import type { BlockDevice } from "@dmkit/block-io";
import { ManualClock, manualEnvironment, settle } from "@dmkit/block-io/testing";
import { openWriteboost } from "@dmkit/writeboost";
import { crc, rawCrc, u32, u64 } from "./bytes.ts";
import {
  type Base,
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

const MIB = 2 ** 20;
/** Blocks of the backing device; those from 24 on are never written. */
const BACKING_BLOCKS = 64;

export const header: Place = place("cache", 0, "the superblock");
export const identity: Place = place("cache", 4096, "the identity record");
export const record: Place = place("cache", 2047 * SECTOR, "the superblock record");

/** Where segments are on a cache with so many slots of so many bytes. */
export interface Ring {
  readonly slots: number;
  readonly slotSize: number;
  readonly dialect: "classic" | "v2";
}

/** Order 5: segments of 3 blocks; no more than 5 can be on the device without a flush behind them. */
export const small: Ring = { slots: 12, slotSize: 16_384, dialect: "classic" };
export const large: Ring = { slots: 6, slotSize: 524_288, dialect: "v2" };

export function head(id: number, ring: Ring = small): Place {
  return place("cache", MIB + ((id - 1) % ring.slots) * ring.slotSize, `segment ${id}`);
}

export function metablock(id: number, index: number, ring: Ring = small): Place {
  const { on, at, name } = head(id, ring);
  return place(on, at + 512 + 16 * index, `${name}, metablock ${index}`);
}

export function data(id: number, index: number, byte = 0, ring: Ring = small): Place {
  const { on, at, name } = head(id, ring);
  return place(on, at + 4096 * (1 + index) + byte, `${name}, data of block ${index}, byte ${byte}`);
}

/** Plog segments of order 5. */
export const PLOG_SEGMENT: number = 27 * SECTOR;
const PLOG_SIZE = 4 * PLOG_SEGMENT + SECTOR;

/** The plog segment that segment `id` goes to. */
export function plogSegment(id: number): Place {
  return place("plog", ((id - 1) % 4) * PLOG_SEGMENT, `the plog of segment ${id}`);
}

export const plogIdentity: Place = place("plog", PLOG_SIZE - SECTOR, "the copy of the identity record");

/** Makes the checksum of a segment right again, whatever it says now. */
export function seal(id: number, ring: Ring = small): Damage {
  return {
    text: `cache: the checksum of what is in the slot of segment ${id} is right`,
    apply({ cache }) {
      const bytes = cache as Buffer;
      const { at } = head(id, ring);
      const end = at + 4096 * (1 + bytes.readUInt8(at + 12));
      const covered = bytes.subarray(at + 512, end);
      u32(ring.dialect === "classic" ? rawCrc(covered) : crc(covered)).copy(bytes, at + 8);
    },
  };
}

/** Makes the checksum of an identity record right again. */
export function sealIdentity({ on, at, name }: Place): Damage {
  return {
    text: `${on}: the checksum of ${name} is right`,
    apply(contents) {
      const sector = (contents[on] as Buffer).subarray(at, at + SECTOR);
      sector.fill(0, 8, 12);
      u32(crc(sector)).copy(sector, 8);
    },
  };
}

/** Three blocks a segment, one of them in part; segment n is round n. */
function rounds(round: number): { sector: number; count: number; noise: boolean }[] {
  const part = ((round * 11 + 6) % 24) * 8;
  return [
    { sector: ((round * 5) % 24) * 8, count: 8, noise: round % 4 === 0 },
    { sector: ((round * 7 + 3) % 24) * 8, count: 8, noise: false },
    { sector: part + (round % 6), count: 2, noise: true },
  ];
}

interface Wish {
  readonly plog?: boolean;
  readonly v2?: boolean;
  /** After these rounds everything is written back, and the superblock record says so. */
  readonly back: readonly number[];
  readonly rounds: number;
  /** The last rounds that nobody has flushed. */
  readonly unflushed?: number;
  readonly close?: boolean;
  readonly seed?: number;
}

async function make(wish: Wish): Promise<Made> {
  const { plog: withPlog = false, v2 = false, back, rounds: count, unflushed = 0, seed = 1 } = wish;
  const ring = v2 ? large : small;
  const devices = {
    backing: await deviceOf(Buffer.alloc(BACKING_BLOCKS * 4096), "backing"),
    cache: await deviceOf(Buffer.alloc(MIB + ring.slots * ring.slotSize), "cache"),
    plog: withPlog ? await deviceOf(Buffer.alloc(PLOG_SIZE), "plog") : undefined,
  };
  const oracle = new Oracle(BACKING_BLOCKS * 8);
  const clock = new ManualClock();
  const device = await openWriteboost(devices, {
    ...(v2 ? { dialect: "v2" } : { order: 5 }),
    environment: manualEnvironment(seed, clock),
  });
  for (let round = 1; round <= count; round += 1) {
    for (const { sector, count: sectors, noise } of rounds(round))
      await device.write(sector * SECTOR, oracle.write(sector, sectors, noise));
    await settle();
    if (round <= count - unflushed) {
      await device.flush();
      oracle.flush();
    }
    if (back.includes(round)) {
      await device.dropCaches();
      await device.message(["update_record_interval", "1"]);
      await clock.pass(1000);
      await device.message(["update_record_interval", "0"]);
      // What it has written must be durable.
      await device.flush();
    }
  }
  if (wish.close === true) {
    await device.close();
    oracle.flush();
  }
  const contents: Record<string, Buffer> = {
    cache: await bytesFrom(devices.cache),
    backing: await bytesFrom(devices.backing),
  };
  if (devices.plog !== undefined) contents["plog"] = await bytesFrom(devices.plog);
  await device.close();
  return { contents, oracle, open };
}

async function open({ cache, backing, plog }: Devices): Promise<BlockDevice> {
  if (cache === undefined || backing === undefined) throw new Error("a device is missing");
  const sector = Buffer.alloc(SECTOR);
  if (cache.size >= SECTOR) await cache.read(0, sector);
  // What is blank is formatted: as it was, because no other order fits.
  const order = sector.equals(Buffer.alloc(SECTOR)) ? 5 : undefined;
  return openWriteboost({ cache, backing, plog }, { order, environment: manualEnvironment(9) });
}

/**
 * Log 11 … 22, written back up to 14. The identity record knows that everything up to 18 was flushed; so were 19 and
 * 20, and nobody has flushed 21 and 22.
 */
export const plain: Base = base("writeboost", () => make({ back: [14], rounds: 23, unflushed: 3 }));
/** The same, written back up to 17. */
export const halfway: Base = base("writeboost, half of it written back", () =>
  make({ back: [14, 17], rounds: 23, unflushed: 3 }),
);
/** Closed in order with a log of 1 … 9, of which nothing was written back. */
export const closedDirty: Base = base("writeboost, closed, nothing written back", () =>
  make({ back: [], rounds: 9, close: true }),
);
/** The same as `plain`, written back up to 20. */
export const late: Base = base("writeboost, most of it written back", () =>
  make({ back: [14, 20], rounds: 23, unflushed: 3 }),
);
/** Closed in order with a log of 9 … 20, written back up to 14. */
export const closed: Base = base("writeboost, closed", () => make({ back: [14], rounds: 20, close: true }));
/** Type 1: log 8 … 19, written back up to 14, known to be flushed up to 18; segment 20 is in the plog. */
export const type1: Base = base("writeboost with a plog", () => make({ plog: true, back: [14], rounds: 20 }));
/** Type 1, made by another machine: other uuids, other contents. */
export const otherType1: Base = base("another writeboost with a plog", () =>
  make({ plog: true, back: [9], rounds: 12, seed: 77 }),
);
export const closedType1: Base = base("writeboost with a plog, closed", () =>
  make({ plog: true, back: [14], rounds: 20, close: true }),
);
/** Dialect v2: six slots of 512 KiB, log 4 … 9, written back up to 6. */
export const v2: Base = base("writeboost of the v2 dialect", () => make({ v2: true, back: [6], rounds: 9 }));
export const closedV2: Base = base("writeboost of the v2 dialect, closed", () =>
  make({ v2: true, back: [6], rounds: 9, close: true }),
);
/** Formatted, and never used. */
export const unused: Base = base("writeboost, never used", () => make({ back: [], rounds: 0 }));

/**
 * As a driver of 2014 left it, byte by byte: no identity record; ids 1 … 9; dirty sectors of blocks are spread over
 * several copies. Nobody has written back anything.
 */
export const historical: Base = base("writeboost of 2014", async () => {
  const oracle = new Oracle(BACKING_BLOCKS * 8);
  const cache = Buffer.alloc(MIB + small.slots * small.slotSize);
  Buffer.from("7473425705", "hex").copy(cache);
  for (let id = 1; id <= 9; id += 1) {
    const { at } = head(id);
    const writes = rounds(id);
    for (const [index, { sector, count, noise }] of writes.entries()) {
      const first = sector - (sector % 8);
      const bits = ((1 << count) - 1) << (sector % 8);
      u64(first).copy(cache, at + 512 + 16 * index);
      cache.writeUInt8(bits, at + 512 + 16 * index + 8);
      // What is not dirty is anything.
      cache.fill("left over", at + 4096 * (1 + index), at + 4096 * (2 + index), "latin1");
      oracle.write(sector, count, noise).copy(cache, at + 4096 * (1 + index) + (sector % 8) * SECTOR);
    }
    u64(id).copy(cache, at);
    cache.writeUInt8(writes.length, at + 12);
    u32(rawCrc(cache.subarray(at + 512, at + 4096 * (1 + writes.length)))).copy(cache, at + 8);
  }
  oracle.flush();
  return { contents: { cache, backing: Buffer.alloc(BACKING_BLOCKS * 4096) }, oracle, open };
});
