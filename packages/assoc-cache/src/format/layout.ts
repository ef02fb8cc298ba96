/**
 * Where things are on the cache device, version 2 (sectors of 512 bytes):
 *
 *      0             superblock, first copy
 *      1 … 7         zero (so that a device of 4096-byte blocks can write the superblock alone)
 *      8             entry sectors: ceil(frames / 63), padded to a multiple of 8
 *      dataStart     frame 0; frame i is at dataStart + i · blockSectors; dataStart is a multiple of 8 and of
 *                    the block size
 *      deviceSectors - 1
 *                    superblock, second copy, in the last sector that the device had when it was formatted
 */
import { ENTRIES_PER_SECTOR } from "./entries.ts";
import type { Geometry } from "./geometry.ts";

/** The grain of everything: one 4096-byte block of a device. */
const GRAIN = 8;

export interface Layout {
  /** First entry sector. */
  readonly entryStart: number;
  /** Entry sectors, padding included. */
  readonly entrySectors: number;
  /** First sector of frame 0. */
  readonly dataStart: number;
  /** Sectors the device must have at least. */
  readonly requiredSectors: number;
}

export function layoutOf({ frames, blockSectors }: Geometry): Layout {
  const entryStart = GRAIN;
  const entrySectors = roundUp(Math.ceil(frames / ENTRIES_PER_SECTOR), GRAIN);
  const dataStart = roundUp(entryStart + entrySectors, Math.max(GRAIN, blockSectors));
  return { entryStart, entrySectors, dataStart, requiredSectors: dataStart + frames * blockSectors + GRAIN };
}

function roundUp(value: number, grain: number): number {
  return Math.ceil(value / grain) * grain;
}
