/** Errors from before there was a device, told with the name of what was to be opened. */
import { BlockIoError, codeOf } from "@dmkit/block-io";

/** @param device its URI. */
export function named(error: unknown, device: string): BlockIoError {
  if (error instanceof BlockIoError && error.device !== undefined) return error;
  const { hint, cause } = error instanceof BlockIoError ? error : { hint: undefined, cause: error };
  const reason =
    error instanceof BlockIoError ? error.reason : error instanceof Error ? error.message : String(error);
  return new BlockIoError(reason, { code: codeOf(error), device, op: "open", hint, cause: cause ?? error });
}
