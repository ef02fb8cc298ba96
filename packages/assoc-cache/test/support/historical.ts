/** Caches with historical metadata, by hand. */
import type { SeededRandom } from "@dmkit/block-io/testing";
import { Sets } from "../../src/core/sets.ts";

export interface Shape {
  readonly frames: number;
  readonly blockSectors: number;
  readonly ways: number;
}

/**
 * The checksum of the original as its kernel computes it, from the definition: the sum of all 32-bit words, of which
 * what does not fit into 32 bits is added again from below. Only where all words are 0 does that give 0.
 */
export function kernelSum(table: Buffer): number {
  let sum = 0n;
  for (let at = 0; at < table.length; at += 4) sum += BigInt(table.readUInt32LE(at));
  if (sum === 0n) return 0;
  return Number(((sum - 1n) % 0xffff_ffffn) + 1n);
}

/** The same as a machine adds it: 64-bit words with the carry added again, then both halves, piece by piece. */
export function carriedSum(table: Buffer, piece: number): number {
  const add = (a: bigint, b: bigint, bits: bigint): bigint => {
    const sum = a + b;
    return (sum & ((1n << bits) - 1n)) + (sum >> bits);
  };
  let sum = 0n;
  for (let start = 0; start < table.length; start += piece) {
    let words = 0n;
    for (let at = start; at < start + piece; at += 8) words = add(words, table.readBigUInt64LE(at), 64n);
    sum = add(add(words >> 32n, words & 0xffff_ffffn, 32n), sum, 32n);
  }
  return Number(sum);
}

/** Metadata at the end of `device`: frame → source sector; returns the same bytes. */
export function putHistorical(
  device: Buffer,
  { frames, blockSectors, ways }: Shape,
  entries: ReadonlyMap<number, number>,
): Buffer {
  const table = Buffer.alloc(Math.ceil((frames * 8) / 512) * 512);
  for (const [frame, sector] of entries) table.writeBigUInt64LE(BigInt(sector), frame * 8);
  const configuration = Buffer.alloc(512, 0xcc);
  configuration.writeBigUInt64LE(BigInt(frames), 0);
  configuration.writeUInt32LE(blockSectors, 8);
  configuration.writeUInt32LE(ways, 12);
  configuration.writeUInt32LE(1, 16);
  configuration.writeUInt32LE(kernelSum(table), 20);
  table.copy(device, device.length - 512 - table.length);
  configuration.copy(device, device.length - 512);
  return device;
}

/** A cache device with blocks of `source` by chance, in frames they may be in. Block 0 is not among them. */
export function historicalCache(random: SeededRandom, shape: Shape, source: Buffer, slack: number): Buffer {
  const { frames, blockSectors, ways } = shape;
  const sectors = frames * blockSectors + Math.ceil((frames * 8) / 512) + 1 + slack;
  const device = Buffer.alloc(sectors * 512);
  const sets = new Sets(shape);
  const entries = new Map<number, number>();
  const blockBytes = blockSectors * 512;
  for (let block = 1; block * blockBytes < source.length; block += 1) {
    const first = sets.of(block) * ways;
    const free = Array.from({ length: ways }, (_, way) => first + way).filter((frame) => !entries.has(frame));
    if (free.length === 0 || random.chance(0.3)) continue;
    const frame = free[random.below(free.length)] as number;
    entries.set(frame, block * blockSectors);
    source.copy(device, frame * blockBytes, block * blockBytes, (block + 1) * blockBytes);
  }
  return putHistorical(device, shape, entries);
}
