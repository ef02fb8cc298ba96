/**
 * The head of a slot (its first 4 KiB, see segment.ts) as fields, and back, byte for byte; and metablocks as words.
 *
 *      8            the block at sector 8, all sectors valid (dirty_bits 0xff)
 *      8x127        127 blocks one after the other: sectors 8, 16, 24 …
 *      4096/0f      dirty_bits 0x0f
 */
import { isZero, setU32, setU64, setU8 } from "@dmkit/block-io";
import { BLOCK } from "./geometry.ts";
import { decodeSegmentHeader, metablockBits, metablockSector, setMetablock } from "./segment.ts";

/** Metablocks: first sectors of blocks on the backing device, and dirty_bits. */
export interface Blocks {
  readonly sectors: readonly number[];
  readonly bits: readonly number[];
}

export interface Head extends Blocks {
  readonly id: number;
  readonly checksum: number;
  /** Metablocks behind those that count: they are left over from other uses, and the checksum covers them. */
  readonly beyond: Blocks;
}

// All that fit into a head: more than a segment can have.
const METABLOCKS = (BLOCK - 512) / 16;

/** Undefined where {@link encodeHead} would not give the same bytes again. @param blocks B. */
export function decodeHead(head: Buffer, blocks: number): Head | undefined {
  const { id, checksum, length } = decodeSegmentHeader(head);
  if (!(id > 0) || length > blocks) return undefined;
  let end = METABLOCKS;
  while (end > length && isZero(head, 512 + 16 * (end - 1), 512 + 16 * end)) end -= 1;
  const sectors = Array.from({ length: end }, (_, index) => metablockSector(head, index));
  const bits = Array.from({ length: end }, (_, index) => metablockBits(head, index));
  if (sectors.some(Number.isNaN)) return undefined;
  const fields = {
    id,
    checksum,
    sectors: sectors.slice(0, length),
    bits: bits.slice(0, length),
    beyond: { sectors: sectors.slice(length), bits: bits.slice(length) },
  };
  return encodeHead(fields).equals(head) ? fields : undefined;
}

/** 4 KiB. At most 224 metablocks in all. */
export function encodeHead({ id, checksum, sectors, bits, beyond }: Head): Buffer {
  const head = Buffer.alloc(BLOCK);
  setU64(head, 0, id);
  setU32(head, 8, checksum);
  setU8(head, 12, sectors.length);
  const all = [...bits, ...beyond.bits];
  for (const [index, sector] of [...sectors, ...beyond.sectors].entries())
    setMetablock(head, index, sector, all[index] as number);
  return head;
}

/** How many metablocks a head has room for behind `length` of them. */
export function roomBehind(length: number): number {
  return METABLOCKS - length;
}

export function printBlocks({ sectors, bits }: Blocks): string {
  const words: string[] = [];
  for (let from = 0; from < sectors.length; ) {
    const start = sectors[from] as number;
    const dirty = bits[from] as number;
    let to = from + 1;
    while (to < sectors.length && sectors[to] === start + (to - from) * 8 && bits[to] === dirty) to += 1;
    const run = to - from > 1 ? `x${to - from}` : "";
    const suffix = dirty === 0xff ? "" : `/${dirty.toString(16).padStart(2, "0")}`;
    words.push(`${start}${run}${suffix}`);
    from = to;
  }
  return words.join(" ");
}

/** Undefined for text that is not what {@link printBlocks} gives, or more than `most` blocks. */
export function parseBlocks(text: string, most: number): Blocks | undefined {
  const sectors: number[] = [];
  const bits: number[] = [];
  for (const word of text === "" ? [] : text.split(" ")) {
    const [, start, run, dirty] = /^(\d{1,16})(?:x(\d{1,3}))?(?:\/([0-9a-f]{2}))?$/.exec(word) ?? [];
    const count = Number(run ?? "1");
    if (start === undefined || count < 1 || count > most - sectors.length) return undefined;
    for (let index = 0; index < count; index += 1) {
      const sector = Number(start) + index * 8;
      if (!Number.isSafeInteger(sector)) return undefined;
      sectors.push(sector);
      bits.push(Number.parseInt(dirty ?? "ff", 16));
    }
  }
  return { sectors, bits };
}
