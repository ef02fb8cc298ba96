/** Sets of sectors of one 4 KiB block, as bits of a byte: bit j is sector j. */

/** Sectors `first` … `first + count - 1`. */
export function sectorBits(first: number, count: number): number {
  return ((1 << count) - 1) << first;
}

/** The first run of set bits at or after `from`: its start, or 8 if there is none. */
export function runStart(bits: number, from: number): number {
  const rest = bits & (0xff << from) & 0xff;
  return rest === 0 ? 8 : 31 - Math.clz32(rest & -rest);
}

/** The end of the run of set bits that begins at `start`. */
export function runEnd(bits: number, start: number): number {
  return runStart(~bits & 0xff, start);
}

/** The sectors a backing block has: all 8, or fewer at the end of the device. */
export function sectorsOfBlock(size: number, block: number): number {
  const rest = size - block * 4096;
  return rest >= 4096 ? 0xff : (1 << (rest / 512)) - 1;
}
