/**
 * What an epoch may be called: 1 … 63 bytes of UTF-8 that are one word on a command line and in a table, and one line to a
 * terminal. No comma: lists of names have commas between them.
 */
import { printable } from "@dmkit/block-io";

/** Bytes of a name, at most. */
export const MAX_NAME = 63;

/** What is wrong with a name, in words; undefined if nothing is. */
export function nameProblem(name: string): string | undefined {
  const bytes = Buffer.byteLength(name);
  if (bytes === 0) return "the name is empty";
  if (bytes > MAX_NAME) return `the name has ${bytes} bytes, and ${MAX_NAME} are possible`;
  if (/[\s,]/u.test(name)) return "the name has a space or a comma in it";
  if (printable(name) !== name) return "the name has characters in it that cannot be seen";
  return undefined;
}
