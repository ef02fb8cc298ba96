/** What a running cache answers to what it does not do. */
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
