/**
 * The shape of a cache, as both metadata versions store it, and what shapes are allowed.
 */

/** All three are powers of two. */
export interface Geometry {
  /** Frames: places for one block each. */
  readonly frames: number;
  /** Sectors of a block. */
  readonly blockSectors: number;
  /** Frames of a set (the associativity); at most `frames`. */
  readonly ways: number;
}

/** 1 MiB: the historical bound of a block. */
export const MAX_BLOCK_SECTORS = 2048;
/** Keeps every per-frame table below 2^31 elements with room to spare. */
export const MAX_FRAMES: number = 2 ** 28;

/** What is wrong with a geometry, or undefined. Takes any numbers, e.g. from an untrusted disk. */
export function geometryProblem({ frames, blockSectors, ways }: Geometry): string | undefined {
  if (!isPowerOfTwo(blockSectors) || blockSectors > MAX_BLOCK_SECTORS) {
    return `block size ${blockSectors} is not a power of two of 1 … ${MAX_BLOCK_SECTORS} sectors`;
  }
  if (!isPowerOfTwo(frames) || frames > MAX_FRAMES) {
    return `cache size ${frames} is not a power of two of 1 … ${MAX_FRAMES} blocks`;
  }
  if (!isPowerOfTwo(ways) || ways > frames) {
    return `associativity ${ways} is not a power of two of 1 … ${frames} (the cache size)`;
  }
  return undefined;
}

function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && Number.isInteger(Math.log2(value));
}
