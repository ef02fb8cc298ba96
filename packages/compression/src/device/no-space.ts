/** What becomes of a commit that finds no space below: nothing is lost, and the next one goes on from there. */
import { BlockIoError, isOfPlace, isOutOfSpace } from "@dmkit/block-io";

/** Milliseconds until what found no space is tried again, at least. */
export const RETRY_AFTER: number = 1000;

/**
 * The error of metadata of format 1 that its place does not take: it is in memory, and written by the next flush, as all
 * else is; other errors as {@link withoutLoss} has them.
 */
export function keptInMemory(error: unknown): unknown {
  if (!isOfPlace(error)) return withoutLoss(error);
  return new BlockIoError(`metadata cannot be written: ${error.message}`, {
    code: "EIO",
    device: error.device,
    op: "flush",
    offset: error.offset,
    length: error.length,
    cause: error,
    lossless: true,
    hint: "Everything else is written, and can be read. Copy the contents to a device that takes them: by dmkit recompress, say.",
  });
}

/** The error of a write below: one for want of space as one that lost nothing, any other as it is. */
export function withoutLoss(error: unknown): unknown {
  if (!isOutOfSpace(error)) return error;
  return new BlockIoError(`no space is left below: ${error.message}`, {
    code: "ENOSPC",
    device: error.device,
    op: "flush",
    cause: error,
    lossless: true,
    hint: "Make room in the file system below it. What was written is kept, and is tried again by itself.",
  });
}
