/**
 * What the first sector of a device says whose formatting has begun and not ended, or that was given up: nothing on it counts.
 *
 *      0    "dmkit formatting"
 *      16   zero; in the plog of a retired cache its name may follow at 256
 */

/** 16 bytes of Latin-1. */
export const UNFINISHED = "dmkit formatting";

/** Whether a first sector says so. */
export function isUnfinished(sector: Buffer): boolean {
  return sector.toString("latin1", 0, UNFINISHED.length) === UNFINISHED;
}

/** One sector that says so. */
export function encodeUnfinished(): Buffer {
  const sector = Buffer.alloc(512);
  sector.write(UNFINISHED, "latin1");
  return sector;
}
