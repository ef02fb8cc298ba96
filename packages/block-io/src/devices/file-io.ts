/** What a file device is told of its file, what it can do with it, and the calls that take several steps. */
import { constants, openSync, write } from "node:fs";
import { type Limits, plainLimits } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";
import type { Origin } from "./origin.ts";

/** What is found out about a file when it is opened. */
export interface FileFacts {
  readonly name: string;
  readonly readOnly: boolean;
  /** Holes can be found and (if writable) punched. */
  readonly holes: boolean;
  readonly sectorSize: 512 | 4096;
  /** A file, not a block device. */
  readonly isRegular: boolean;
  /** It holds a lock while it is open. */
  readonly locks: boolean;
  readonly origin: Origin;
  readonly environment: Environment;
}

/** The same file again, opened for synchronous writes; -1 where the system offers no way. */
export function openSynced(fd: number): number {
  try {
    // Not by path: another file may have taken its place there.
    return openSync(`/proc/self/fd/${fd}`, constants.O_RDWR | constants.O_DSYNC);
  } catch {
    return -1;
  }
}

/** Writes all from byte `start` of `from` on. */
export function writeTo(fd: number, offset: number, from: Buffer, start: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = (done: number): void => {
      write(fd, from, done, from.length - done, offset + done, (error, count) => {
        if (error !== null) reject(error);
        else if (done + count === from.length) resolve();
        else step(done + count);
      });
    };
    step(start);
  });
}

export function limitsOf({ readOnly, holes, sectorSize, isRegular }: FileFacts): Limits {
  const punch = holes && !readOnly;
  return {
    ...plainLimits,
    logicalBlockSize: sectorSize,
    capabilities: {
      readOnly,
      fua: "native",
      discard: punch ? "native" : "none",
      discardZeroes: punch,
      writeZeroes: punch ? "native" : "emulated",
      fastZero: punch,
      // A block device can punch holes, but has no way to tell where they are.
      extents: holes && isRegular,
    },
  };
}
