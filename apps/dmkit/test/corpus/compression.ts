/**
 * Compressed devices, and the places on them that can be damaged.
 *
 *      format 2   0, 4096        superblock: "dmkitCP2", version u32, crc u32 (12), uuid 16, generation u64 (32),
 *                                layout 7 × u64 (40 …), applied u64 (96), features u32 (104), algorithm (112)
 *                 block 2        journal: two slots of 68 blocks; record n in slot n mod 2
 *                 block 138      metadata: one sector for each 64 data blocks: crc u32, record u64, states, checksums
 *                 block 139      data, 128 blocks
 *      format 1   0              magic, metadata blocks u64, data blocks u64, algorithm u8
 *                 block 1        5 bits a data block
 *                 block 2        data, 126 blocks
 */
import { type BlockDevice, parseOptions } from "@dmkit/block-io";
import { manualEnvironment } from "@dmkit/block-io/testing";
import { compressionOptions, openCompression } from "@dmkit/compression";
import { crc, get64, u32, u64 } from "./bytes.ts";
import { type Base, type Damage, type Made, type Place, base, bytesFrom, deviceOf, place } from "./image.ts";
import { Oracle, SECTOR } from "./oracle.ts";

const BLOCK = 4096;
const JOURNAL = 136 * BLOCK;
const SLOT = JOURNAL / 2;
const BLOCKS = 128;
const BLOCKS_V1 = 126;

export const copies: readonly [Place, Place] = [
  place("device", 0, "the first superblock"),
  place("device", BLOCK, "the second superblock"),
];

export function group(number: number): Place {
  return place("device", 138 * BLOCK + number * SECTOR, `the metadata of group ${number}`);
}

export function block(number: number): Place {
  return place("device", (139 + number) * BLOCK, `the payload at block ${number}`);
}

export function blockV1(number: number): Place {
  return place("device", (2 + number) * BLOCK, `the payload at block ${number}`);
}

/** The slot with the newer of the two records, or the older. */
export function journal(bytes: Buffer, which: "newer" | "older"): number {
  const slots = [0, 1].map((slot) => 2 * BLOCK + slot * SLOT);
  const sorted = slots.toSorted((a, b) => get64(bytes, b + 8) - get64(bytes, a + 8));
  return (which === "newer" ? sorted[0] : sorted[1]) as number;
}

/** Changes a field of superblocks; the checksum is made right. */
export function field(at: number, value: Buffer, what: string, which: readonly Place[]): Damage {
  return {
    text: `device: ${which.map(({ name }) => name).join(" and ")} ${what}, with the right checksum`,
    apply({ device }) {
      for (const { at: start } of which) {
        const sector = (device as Buffer).subarray(start, start + SECTOR);
        value.copy(sector, at);
        sector.fill(0, 12, 16);
        u32(crc(sector)).copy(sector, 12);
      }
    },
  };
}

function salt(bytes: Buffer, number: number): number {
  return crc(u64(number), crc(bytes.subarray(16, 32)));
}

/** Changes a byte of a group's metadata; the checksum is made right. */
export function metadata(number: number, at: number, value: number, what: string): Damage {
  return {
    text: `device: the metadata of group ${number} ${what}, with the right checksum`,
    apply({ device }) {
      const bytes = device as Buffer;
      const { at: start } = group(number);
      const sector = bytes.subarray(start, start + SECTOR);
      sector.writeUInt8(value, at);
      u32(crc(sector.subarray(4), salt(bytes, number))).copy(sector);
    },
  };
}

/** What a power failure, or rot, does to a journal record. */
export function tornRecord(which: "newer" | "older", how: "torn" | "bit" | "gone"): Damage {
  return {
    text: `device: the ${which} journal record is ${{ torn: "half written", bit: "without a bit", gone: "zeroed" }[how]}`,
    apply({ device }) {
      const bytes = device as Buffer;
      const start = journal(bytes, which);
      if (how === "gone") bytes.fill(0, start, start + SLOT);
      else if (how === "bit") bytes.writeUInt8(bytes.readUInt8(start + 700) ^ 4, start + 700);
      else bytes.fill(0xa5, start + 1024, start + SLOT);
    },
  };
}

/** A record that nobody can have meant: its first change lies behind the device. All checksums are right. */
export const impossibleRecord: Damage = {
  text: "device: the newer journal record changes block 2^32 - 2, with the right checksums",
  apply({ device }) {
    const bytes = device as Buffer;
    const start = journal(bytes, "newer");
    const pieces = (length: number): number => Math.ceil(length / 508);
    const [changes, sectors] = [bytes.readUInt32LE(start + 16), bytes.readUInt32LE(start + 20)];
    const length = 32 + changes * 16 + sectors * 4;
    const header = Buffer.alloc(pieces(length) * 508);
    for (let piece = 0; piece < pieces(length); piece += 1)
      bytes.copy(header, piece * 508, start + piece * SECTOR, start + piece * SECTOR + 508);
    u32(2 ** 32 - 2).copy(header, 32);
    u32(crc(header.subarray(4, length), salt(bytes, get64(header, 8)))).copy(header);
    for (let piece = 0; piece < pieces(length); piece += 1) {
      const part = header.subarray(piece * 508, (piece + 1) * 508);
      part.copy(bytes, start + piece * SECTOR);
      u32(crc(part, salt(bytes, piece))).copy(bytes, start + piece * SECTOR + 508);
    }
  },
};

interface Wish {
  readonly format: "v1" | "v2";
  /** Bytes of the device. */
  readonly size: number;
  readonly blocks: number;
  readonly close?: boolean;
  /** Whether what the last flush wrote into place has reached it. */
  readonly early?: boolean;
}

/** Extents of one to eight blocks, text and noise by turns; the last ones overwrite parts of the first. */
async function make({ format, size, blocks, close = false, early = false }: Wish): Promise<Made> {
  const lower = await deviceOf(Buffer.alloc(size), "device");
  const oracle = new Oracle(blocks * 8);
  const device = await openWith(lower, blocks, { format, ...(format === "v2" ? { journal: JOURNAL } : {}) });
  const write = async (first: number, count: number, noise: boolean): Promise<void> => {
    await device.write(first * BLOCK, oracle.write(first * 8, count * 8, noise));
  };
  for (let turn = 0; turn < 12; turn += 1) {
    await write(turn * 9 + (turn % 3), 1 + (turn % 8), turn % 3 === 2);
    if (turn % 4 !== 3) continue;
    await device.flush();
    oracle.flush();
  }
  await write(1, 2, true);
  await write(40, 4, false);
  await device.flush();
  oracle.flush();
  // A flush answers when the journal has it; suspended, what it has written is in place, too.
  await device.suspend();
  const before = await bytesFrom(lower);
  await device.resume();
  await write(64, 6, false);
  await device.flush();
  oracle.flush();
  if (close) await device.close();
  const contents = { device: await bytesFrom(lower) };
  await device.close();
  if (early) before.copy(contents.device, PLACES, PLACES);
  return { contents, oracle, open: ({ device: one }) => openWith(one, blocks, {}) };
}

function openWith(
  lower: BlockDevice | undefined,
  blocks: number,
  values: Readonly<Record<string, unknown>>,
): Promise<BlockDevice> {
  if (lower === undefined) throw new Error("a device is missing");
  const options = parseOptions(compressionOptions, { device: "device", ...values }, "compression");
  const context = {
    name: "compression",
    size: blocks * BLOCK,
    environment: manualEnvironment(9),
    lower: (): Promise<BlockDevice> => Promise.resolve(lower),
  };
  return openCompression(options, context, { synchronous: true });
}

/** Where metadata and data begin. */
const PLACES = 138 * BLOCK;
const SIZE = (139 + BLOCKS) * BLOCK;
const SIZE_V1 = (2 + BLOCKS_V1) * BLOCK;

/** Two records of the journal are not known to be in place; the newer is that of blocks 64 … 69. */
export const crashed: Base = base("compressed, format 2", () =>
  make({ format: "v2", size: SIZE, blocks: BLOCKS }),
);
/** The same; of the newer record only the journal was written when the power failed. */
export const early: Base = base("compressed, format 2, the last record not in place", () =>
  make({ format: "v2", size: SIZE, blocks: BLOCKS, early: true }),
);
export const closed: Base = base("compressed, format 2, closed", () =>
  make({ format: "v2", size: SIZE, blocks: BLOCKS, close: true }),
);
export const version1: Base = base("compressed, format 1", () =>
  make({ format: "v1", size: SIZE_V1, blocks: BLOCKS_V1, close: true }),
);
/** Of a size for which the original computed a wrong count: 6554 blocks behind the superblock. */
export const wrapped: Base = base("compressed, format 1, of an unlucky size", () =>
  make({ format: "v1", size: 6555 * BLOCK, blocks: BLOCKS_V1, close: true }),
);
