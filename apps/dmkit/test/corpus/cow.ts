/**
 * Layers of copy-on-write stacks, and the places on them that can be damaged. The target has 1003 sectors.
 *
 *      bitmap   0        bit n of byte n / 8: sector n is in the layer; bits 3 … 7 of byte 125 speak for nothing
 *               98304    identity: magic, bmap_len u64, "dmkitcow", version u32, flags u32, uuid 16 (at 32),
 *                        parent 16 (48), sectors u64 (64), crc (508)
 *      data     sector n of the target at sector n
 */
import type { BlockDevice } from "@dmkit/block-io";
import { manualEnvironment } from "@dmkit/block-io/testing";
import { createLayer, openStack } from "@dmkit/cow";
import { crc, u32, u64 } from "./bytes.ts";
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

const SECTORS = 1003;
const IDENTITY = 98_304;
const BITMAP = IDENTITY + 4096;

/** The number every identity begins with. */
export const MAGIC = 0x00ba_be0e_aaba_be11n;

export const identity: Place = place("bitmap", IDENTITY, "the identity");

export function bitmapByte(number: number): Place {
  return place("bitmap", number, `byte ${number} of the bitmap`);
}

/** Changes a field of the identity; its checksum is made right. */
export function field(at: number, value: Buffer, what: string): Damage {
  return {
    text: `bitmap: the identity ${what}, with the right checksum`,
    apply({ bitmap }) {
      const sector = (bitmap as Buffer).subarray(IDENTITY, IDENTITY + SECTOR);
      value.copy(sector, at);
      u32(crc(sector.subarray(0, 508))).copy(sector, 508);
    },
  };
}

/** A base full of text, and writes all over it. */
async function make({ layers = 1, blank = false }: { layers?: number; blank?: boolean }): Promise<Made> {
  const oracle = new Oracle(SECTORS);
  const lower = await deviceOf(oracle.write(0, SECTORS), "base");
  oracle.flush();
  const made = [];
  for (let index = 0; index < layers; index += 1) {
    const bitmap = await deviceOf(Buffer.alloc(BITMAP), `bitmap ${index}`);
    const data = await deviceOf(Buffer.alloc(SECTORS * SECTOR), `data ${index}`);
    const layer = { bitmap, data, offset: 0 };
    const below = made.at(-1);
    if (!blank) {
      const options = { sectors: SECTORS, environment: manualEnvironment(index), below: below?.bitmap };
      await createLayer(layer, options);
    }
    made.push(layer);
    if (blank) continue;
    const stack = { base: lower, baseOffset: 0, layers: made, sectors: SECTORS };
    const device = await openStack(stack, { environment: manualEnvironment(index), autocommit: 0 });
    for (let write = 0; write < 30; write += 1) {
      const sector = (write * 97 + index * 31) % (SECTORS - 9);
      const count = 1 + (write % 9);
      await device.write(sector * SECTOR, oracle.write(sector, count, write % 2 === 0));
    }
    await device.write((SECTORS - 2) * SECTOR, oracle.write(SECTORS - 2, 2));
    await device.flush();
    oracle.flush();
    await device.close();
  }
  const top = made.at(-1) as (typeof made)[number];
  const below = made.slice(0, -1);
  const contents = {
    bitmap: await bytesFrom(top.bitmap),
    data: await bytesFrom(top.data),
    base: await bytesFrom(lower),
  };
  const frozen = await Promise.all(
    below.map(async ({ bitmap, data }) => [await bytesFrom(bitmap), await bytesFrom(data)] as const),
  );
  return { contents, oracle, open: (devices) => open(devices, frozen) };
}

async function open(devices: Devices, frozen: readonly (readonly [Buffer, Buffer])[]): Promise<BlockDevice> {
  const { bitmap, data, base: lower } = devices;
  if (bitmap === undefined || data === undefined || lower === undefined)
    throw new Error("a device is missing");
  const layers = [];
  for (const [bits, bytes] of frozen)
    layers.push({ bitmap: await deviceOf(bits), data: await deviceOf(bytes), offset: 0 });
  layers.push({ bitmap, data, offset: 0 });
  return openStack(
    { base: lower, baseOffset: 0, layers, sectors: SECTORS },
    { environment: manualEnvironment(9), autocommit: 0 },
  );
}

export const layer: Base = base("cow layer", () => make({}));
export const child: Base = base("cow layer on another one", () => make({ layers: 2 }));
export const blank: Base = base("new cow layer", () => make({ blank: true }));

/** The layer below `child`, on which another one lies. */
export const frozen: Base = base("frozen cow layer", async () => {
  const made = await make({});
  // Flag 1 in the identity, as putting a layer on it leaves it.
  await field(28, u32(1), "is frozen").apply(made.contents, made);
  return made;
});

/** A snapshot: version 4, `s1` made at 0. */
export const snapshot: Base = base("snapshot", async () => {
  const made = await make({});
  await field(24, Buffer.from([4, 0, 0, 0, 1]), "is frozen, of version 4").apply(made.contents, made);
  await field(424, Buffer.from([2, 0x73, 0x31]), "has a name").apply(made.contents, made);
  return made;
});

/** As the original left it, byte by byte, with buffers of 512 bytes: sectors 512 apart share a bit. */
export const original: Base = base("cow layer of the original", async () => {
  const oracle = new Oracle(SECTORS);
  const lower = oracle.write(0, SECTORS);
  const bitmap = Buffer.alloc(BITMAP);
  const data = Buffer.alloc(SECTORS * SECTOR);
  for (let group = 0; group < 20; group += 1) {
    const sector = (group * 37) % 480;
    // Whatever shares a bit was written together: only then the original read what had been written.
    for (const at of [sector, sector + 512]) {
      if (at < SECTORS) oracle.write(at, 1).copy(data, at * SECTOR);
    }
    const byte = (sector % 512) >> 3;
    bitmap.writeUInt8(bitmap.readUInt8(byte) | (1 << (sector & 7)), byte);
  }
  oracle.flush();
  u64(MAGIC).copy(bitmap, IDENTITY);
  u64(1).copy(bitmap, IDENTITY + 8);
  const openOld = ({ bitmap: bits, data: bytes, base: under }: Devices): Promise<BlockDevice> => {
    if (bits === undefined || bytes === undefined || under === undefined)
      throw new Error("a device is missing");
    const layers = [{ bitmap: bits, data: bytes, offset: 0 }];
    const stack = { base: under, baseOffset: 0, layers, sectors: SECTORS };
    return openStack(stack, { environment: manualEnvironment(9), readOnly: true, aliasedBlockSize: 512 });
  };
  return { contents: { bitmap, data, base: lower }, oracle, open: openOld };
});
