/** Refusals of a command line: what is wrong is in the words, and nothing was done. */
import { BlockIoError } from "@dmkit/block-io";

/** @param hint what to type instead; undefined where the reason says it. */
export function usage(reason: string, hint: string | undefined): BlockIoError {
  return new BlockIoError(reason, { code: "EPARSE", hint });
}
