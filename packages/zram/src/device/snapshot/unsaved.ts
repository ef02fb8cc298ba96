/** What is said when a snapshot cannot be written. */
import { BlockIoError, toBlockIoError } from "@dmkit/block-io";

/** The disk goes on. */
export function unsavedYet(cause: unknown, name: string): BlockIoError {
  const { code, device, op, reason, hint } = toBlockIoError(cause, { device: name, op: "close" });
  return new BlockIoError(`${reason}: the snapshot could not be written`, {
    code,
    device,
    op,
    lossless: true,
    cause,
    hint: `Nothing is lost by that. ${hint ?? "Mend that, or make room, and try again."}`,
  });
}

/** The disk is closed all the same. */
export function unsaved(cause: unknown, name: string): BlockIoError {
  const { code, device, op, reason, hint } = toBlockIoError(cause, { device: name, op: "close" });
  const lost = "what was written since the last snapshot was in memory, and is lost";
  return new BlockIoError(`${reason}: ${lost}`, { code, device, op, hint, cause });
}
