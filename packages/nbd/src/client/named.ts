/** Errors from before there was a device, told with the name of what was to be opened. */
import { BlockIoError, codeOf } from "@dmkit/block-io";

/** @param device its URI. */
export function named(error: unknown, device: string): BlockIoError {
  if (error instanceof BlockIoError && error.device !== undefined) return error;
  const { hint, cause } = error instanceof BlockIoError ? error : { hint: undefined, cause: error };
  const message = error instanceof Error ? error.message : String(error);
  // The constructor puts operation and code around the reason, which are around it already.
  const reason = message.replace(/^(?:open|connect): /, "").replace(/ \([A-Z]+\)$/, "");
  return new BlockIoError(reason, { code: codeOf(error), device, op: "open", hint, cause: cause ?? error });
}
