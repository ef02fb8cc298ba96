/** What has to be done with files before a plan's devices can be opened: making them. */
import { type Environment, openFile } from "@dmkit/block-io";
import { statOf } from "../manager/lengths.ts";
import type { PlannedFile } from "./plan.ts";

/** Makes the files that are not there; leaves those that are as they are. Errors: EACCES, ENOSPC and the like. */
export async function makeFiles(files: readonly PlannedFile[], environment: Environment): Promise<void> {
  for (const { path, lock = true, size, preallocate } of files) {
    // One that is there may be in use, and is not to be opened.
    if (statOf(path) !== undefined) continue;
    const made = await openFile(path, { createSize: size, preallocate, lock, environment });
    await made.close();
  }
}
