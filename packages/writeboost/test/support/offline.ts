/** Images of caches that were not closed in order, and ways to damage them. */
import { MemoryDevice, type OfflineWork, realEnvironment } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import type { Image } from "../../src/index.ts";
import { HandDisk } from "./hand.ts";
import { MIB, Rig } from "./rig.ts";

export const work: OfflineWork = { environment: realEnvironment };

export const SLOTS = 12;
export const ORDER = 5;
export const SLOT: number = 512 * 2 ** ORDER;
const BLOCKS = 24;
export const RECORD: number = 2047 * 512;
export const IDENTITY = 4096;

export interface Made {
  readonly backing: Buffer;
  readonly cache: Buffer;
  readonly plog: Buffer | undefined;
  /** What was flushed last, over all blocks that were ever written. */
  readonly expected: Buffer;
}

export interface Wish {
  /** Whether there is a plog. */
  readonly plog?: boolean;
  readonly writes?: number;
  /** After so many writes everything is written back, and the record says so. */
  readonly back?: number;
  /** Whether the device is closed in order. */
  readonly close?: boolean;
}

/** A log of segments in a ring of 12, most of it written back. */
export async function make({ plog = true, writes = 60, back = 40, close = false }: Wish = {}): Promise<Made> {
  const rig = new Rig({ order: ORDER, slots: SLOTS, ...(plog ? { plog: 4 * 27 * 512 + 512 } : {}) });
  const device = await rig.open();
  const expected = Buffer.alloc(BLOCKS * 4096);
  const random = new SeededRandom(5);
  for (let write = 1; write <= writes; write += 1) {
    const sector = random.below(BLOCKS * 8);
    const count = random.below(3) > 0 ? 8 - (sector % 8) : 1;
    const data = Buffer.alloc(count * 512, write);
    data.copy(expected, sector * 512);
    await device.write(sector * 512, data);
    // Without a plog every flush closes a segment.
    if (!plog && write % 3 === 0) await device.flush();
    if (write === back) {
      await device.dropCaches();
      await device.message(["update_record_interval", "1"]);
      await rig.clock.pass(1000);
    }
  }
  await device.flush();
  if (close) await device.close();
  await rig.crash();
  const { backing, cache, plog: log } = rig;
  return { backing: backing.stable, cache: cache.stable, plog: log?.stable, expected };
}

/** Disks with the contents of an image; `damage` works on a copy. */
export function disksOf(
  { backing, cache, plog }: Made,
  damage: (bytes: { cache: Buffer; plog: Buffer }) => void = () => {},
): { backing: HandDisk; cache: HandDisk; plog: HandDisk | undefined } {
  const bytes = { cache: Buffer.from(cache), plog: Buffer.from(plog ?? Buffer.alloc(0)) };
  damage(bytes);
  return {
    backing: new HandDisk("backing", backing),
    cache: new HandDisk("cache", bytes.cache),
    plog: plog === undefined ? undefined : new HandDisk("plog", bytes.plog),
  };
}

/** First byte of the slot of segment `id`. */
export function slotAt(id: number): number {
  return MIB + ((id - 1) % SLOTS) * SLOT;
}

export function flip(bytes: Buffer, at: number, mask = 0x10): void {
  bytes.writeUInt8(bytes.readUInt8(at) ^ mask, at);
}

/** Ids in the log and what the records say, read by hand. */
export function idsOf(cache: Buffer): { ids: number[]; record: number; last: number } {
  const ids = Array.from({ length: SLOTS }, (_, slot) => cache.readUInt32LE(MIB + slot * SLOT));
  return { ids, record: cache.readUInt32LE(RECORD), last: Math.max(...ids) };
}

export async function contentsOf(
  device: { read(offset: number, into: Buffer): Promise<void> },
  length: number,
): Promise<Buffer> {
  const into = Buffer.alloc(length);
  await device.read(0, into);
  return into;
}

export async function memoryOf(bytes: Buffer): Promise<MemoryDevice> {
  const device = new MemoryDevice(bytes.length);
  await device.write(0, bytes);
  return device;
}

export type { Image };
