/** The file that says which process serves; it is there only while clients can connect. */
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { BlockIoError } from "@dmkit/block-io";

/** Whole or not there: a reader that finds the file finds the number in it. Throws `EACCES`. */
export function writePidfile(path: string): void {
  const temporary = `${path}.${process.pid}`;
  try {
    writeFileSync(temporary, `${process.pid}\n`);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new BlockIoError(`the pid file cannot be written: ${(error as Error).message}`, {
      code: "EACCES",
      device: path,
      cause: error,
      hint: "Give a path in a folder you may write to.",
    });
  }
}

/** Not one that another server has written there since. */
export function removePidfile(path: string): void {
  try {
    if (readFileSync(path, "utf8") === `${process.pid}\n`) rmSync(path);
  } catch {
    // Somebody has removed it already.
  }
}
