/** Errors of several parts: what a running cache does not do, and what its devices do not give. */
import {
  type BlockDevice,
  BlockIoError,
  isLossless,
  isOutOfSpace,
  refuse,
  toBlockIoError,
} from "@dmkit/block-io";

export function interrupted(device: string): BlockIoError {
  const hint = "What was written back stays written back; send it again to go on.";
  return refuse(device, "ESHUTDOWN", "drop_caches was interrupted", hint, "message");
}

export function readOnlyError(device: string): BlockIoError {
  const hint = "Open it for writing, or write back what is dirty offline (replay).";
  return refuse(device, "EROFS", "the cache is open read-only", hint, "message");
}

export function suspendedError(device: string): BlockIoError {
  return refuse(
    device,
    "EBUSY",
    "the cache is suspended: nothing is written back",
    "Resume it first.",
    "message",
  );
}

export function archivedError(device: string): BlockIoError {
  const reason = "the archive would show older contents in place of a segment that was given up";
  const hint = "Begin a new archive: drop_caches, close, open with archive none.";
  return refuse(device, "EINVAL", reason, hint, "message");
}

/** The cache or plog device has failed. */
export function stopped(error: unknown, device: string): BlockIoError {
  const cause = toBlockIoError(error, { device });
  return new BlockIoError(`the cache has stopped: ${cause.message}`, {
    code: "EIO",
    device,
    cause,
    hint: "Check the device below, then open the cache again: it recovers what was flushed.",
  });
}

/** The error of whoever needs what finds no space: nothing is lost, it is in RAM. */
export function outOfSpace(error: unknown, device: string): BlockIoError {
  const cause = toBlockIoError(error, { device, op: "write" });
  return new BlockIoError(`no space is left for the log: ${cause.message}`, {
    code: "ENOSPC",
    device,
    op: "write",
    cause,
    lossless: true,
    hint: "Make room in the file system below it. What was written is in memory and is tried again by itself.",
  });
}

/** Whether what failed may succeed later, and all is as it was until then. */
export function costsNothing(error: unknown): boolean {
  return isOutOfSpace(error) || isLossless(error);
}

/** The error of one read of the log, at `offset` of the cache device: all else may be right, and goes on. */
export function unreadable(
  error: BlockIoError,
  { name }: BlockDevice,
  offset: number,
  length: number,
): BlockIoError {
  return new BlockIoError(`a block in the log cannot be read: ${error.message}`, {
    code: "EIO",
    device: name,
    op: "read",
    offset,
    length,
    cause: error,
    hint: "Everything else goes on. Writing the whole block anew, or discarding it, supersedes it; then replace the device.",
  });
}

/** Of a view: whether this segment is the newest one of its blocks, and whole, could not be found out. */
export function doubtfulSegment(
  { name }: BlockDevice,
  { id, from, length }: { readonly id: number; readonly from: number; readonly length: number },
): BlockIoError {
  return new BlockIoError(`segment ${id} could not be read when the log was looked at`, {
    code: "EIO",
    device: name,
    op: "read",
    offset: from,
    length,
    hint: "Everything else can be read. If the device gives it later, open the view again.",
  });
}
