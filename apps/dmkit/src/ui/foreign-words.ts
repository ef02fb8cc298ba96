/**
 * Names that are no UTF-8. Node makes text of the bytes it is given, and puts U+FFFD in the place of those that are none:
 * what is found, or made, under that name is another file. So they are refused, in one place for all commands.
 */
import { isUtf8 } from "node:buffer";
import { readFileSync, statSync } from "node:fs";
import { usage } from "./usage.ts";

const LOST = "\u{fffd}";
/** What to do about a name that cannot be given. */
export const BY_A_LINK =
  "Give it by a link with another name, and work from another folder if need be: ln -s FILE LINK, or ln -s FOLDER LINK";

/** Throws `EPARSE` for a command line, or a working folder, whose bytes are not what they are taken for. */
export function refuseForeignWords(words: readonly string[]): void {
  const word = words.find((one) => one.includes(LOST));
  // The character may stand there as itself.
  if (word !== undefined && !isUtf8(commandLine()))
    throw usage(`"${word}" is no UTF-8, and cannot be passed on as it is`, BY_A_LINK);
  const folder = workingFolder();
  if (folder.includes(LOST) && statSync(folder, { throwIfNoEntry: false }) === undefined)
    throw usage("the name of the working folder is no UTF-8: paths in it cannot be told", BY_A_LINK);
}

/** Nothing where it is gone: who needs it says so. */
function workingFolder(): string {
  try {
    return process.cwd();
  } catch {
    return "";
  }
}

/** Bytes that say nothing where the system does not tell. */
function commandLine(): Buffer {
  try {
    return readFileSync("/proc/self/cmdline");
  } catch {
    return Buffer.alloc(0);
  }
}
