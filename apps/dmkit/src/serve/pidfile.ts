/** The file that says which process serves; it is there only while clients can connect. */
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { BlockIoError, asking, codeOf } from "@dmkit/block-io";

/**
 * Whole or not there: a reader that finds the file finds the number in it. Only what a server may have left there is
 * replaced, a number or nothing. Throws `EBUSY` for the number of a process that runs, `EEXIST` for anything else,
 * `ENOENT` without its folder, `EACCES` and what else the system says.
 */
export function writePidfile(path: string): void {
  requirePidfile(path);
  const temporary = `${path}.${process.pid}`;
  try {
    writeFileSync(temporary, `${process.pid}\n`);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    const code = codeOf(error);
    const reason = code === "ENOENT" ? "its folder does not exist" : (error as Error).message;
    throw new BlockIoError(`the pid file cannot be written: ${reason}`, {
      code,
      device: path,
      cause: error,
      hint:
        code === "ENOENT"
          ? "Make the folder first: mkdir -p FOLDER"
          : "Give a path in a folder you may write to.",
    });
  }
}

// A pid has 7 digits at the most; a file that is longer than a line is looked into no further.
const LINE = 32;

function requirePidfile(path: string): void {
  const text = asking({ device: path, op: "open" }, () => {
    const found = statSync(path, { throwIfNoEntry: false });
    if (found === undefined) return "";
    return found.isFile() && found.size <= LINE ? readFileSync(path, "utf8") : "a long one";
  });
  if (/^(\d+\s*)?$/.test(text)) {
    const pid = Number(text);
    if (!isRunning(pid)) return;
    throw new BlockIoError(`it names process ${pid}, which runs`, {
      code: "EBUSY",
      device: path,
      hint: "Give another name, or end that process first; if that is no server, remove the file.",
    });
  }
  throw new BlockIoError("there is a file of this name, and it is no pid file", {
    code: "EEXIST",
    device: path,
    hint: "Give another name, or remove it if it is not needed.",
  });
}

/** A process of somebody else runs, too. */
function isRunning(pid: number): boolean {
  if (pid === 0 || pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === "EPERM";
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
