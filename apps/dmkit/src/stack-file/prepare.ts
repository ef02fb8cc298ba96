/** What has to be done with files before a plan's devices can be opened: making them, and asking how large they are. */
import { type Environment, openFile } from "@dmkit/block-io";
import { bytesOf, lengthOf, statOf } from "../manager/lengths.ts";
import { type PlannedDevice, type PlannedFile, tableOfLength } from "./plan.ts";
import { deviceNamed } from "./read/references.ts";

/** Makes the files that are not there; leaves those that are as they are. Errors: EACCES, ENOSPC and the like. */
export async function makeFiles(files: readonly PlannedFile[], environment: Environment): Promise<void> {
  for (const { path, lock = true, size, preallocate } of files) {
    // One that is there may be in use, and is not to be opened.
    if (statOf(path) !== undefined) continue;
    const made = await openFile(path, { createSize: size, preallocate, lock, environment });
    await made.close();
  }
}

/**
 * The device's table with its length filled in. @param sizeOf bytes of a device of the stack; those it stands on are
 * open already. Errors: EINVAL (nothing is left), those of opening.
 */
export async function completeTable(
  device: PlannedDevice,
  sizeOf: (name: string) => number,
  environment: Environment,
): Promise<string> {
  if (device.length === undefined) return device.table;
  const sectors = await lengthOf(device.length, async (reference) => {
    const name = deviceNamed(reference);
    return name === undefined ? bytesOf(reference, environment) : sizeOf(name);
  });
  return tableOfLength(device, sectors);
}
