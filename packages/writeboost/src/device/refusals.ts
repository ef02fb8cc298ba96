/** Errors of several parts: what a running cache does not do, and what its devices do not give. */
import { BlockIoError } from "@dmkit/block-io";

export function interrupted(device: string): BlockIoError {
  return new BlockIoError("drop_caches was interrupted", {
    code: "ESHUTDOWN",
    device,
    op: "message",
    hint: "What was written back stays written back; send it again to go on.",
  });
}

export function readOnlyError(device: string): BlockIoError {
  return new BlockIoError("the cache is open read-only", {
    code: "EROFS",
    device,
    op: "message",
    hint: "Open it for writing, or write back what is dirty offline (replay).",
  });
}

/** Whether an error may be about the place that was read or written, rather than about the device. */
export function isOfPlace(error: unknown): error is BlockIoError {
  return error instanceof BlockIoError && error.code === "EIO";
}

/** What is being read, or undefined where the device does not give it. Throws what is no matter of the place. */
export async function given<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (isOfPlace(error)) return undefined;
    throw error;
  }
}

/** Whether the device gives what is being read. Throws what is no matter of the place. */
export async function isGiven(reading: Promise<void>): Promise<boolean> {
  return (await given(reading.then(() => true))) === true;
}

/** The error of one read of the log, at `offset` of the cache device: all else may be right, and goes on. */
export function unreadable(error: BlockIoError, offset: number, length: number): BlockIoError {
  return new BlockIoError(`a block in the log cannot be read: ${error.message}`, {
    code: "EIO",
    device: error.device,
    op: "read",
    offset,
    length,
    cause: error,
    hint: "Everything else goes on. Writing the whole block anew, or discarding it, supersedes it; then replace the device.",
  });
}
