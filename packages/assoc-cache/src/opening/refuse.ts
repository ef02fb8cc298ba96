/** The errors with which a cache is not opened. */
import { BlockIoError, type ErrorCode } from "@dmkit/block-io";

/** @param hint what to do about it: one sentence, imperative. */
export function refuse(device: string, code: ErrorCode, reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code, device, op: "open", hint });
}
