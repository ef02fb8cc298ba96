/** A write on its way through the cache, and what an error of one says. */
import { BlockIoError } from "@dmkit/block-io";

/** What a request wants to write, in bytes. */
export interface Given {
  readonly offset: number;
  readonly from: Buffer;
  readonly fua: boolean;
  /** First block. */
  readonly first: number;
  /** Blocks. */
  readonly count: number;
}

/** Whether an error may be about the place that was read or written, rather than about the device. */
export function isOfPlace(error: unknown): error is BlockIoError {
  return error instanceof BlockIoError && error.code === "EIO";
}
