/** What has to be done with files before a plan's devices can be opened: making them, and asking how large they are. */
import { type Stats, statSync } from "node:fs";
import { type Environment, asking, openFile, schemeOf } from "@dmkit/block-io";
import { openReference } from "../devices.ts";
import { lengthOf, tableOfLength } from "./lengths.ts";
import type { PlannedDevice, PlannedFile } from "./plan.ts";
import { deviceNamed } from "./read/references.ts";

/** Makes the files that are not there; leaves those that are as they are. Errors: EACCES, ENOSPC and the like. */
export async function makeFiles(files: readonly PlannedFile[], environment: Environment): Promise<void> {
  for (const { path, size, preallocate } of files) {
    // One that is there may be in use, and is not to be opened.
    if (statOf(path) !== undefined) continue;
    const made = await openFile(path, { createSize: size, preallocate, environment });
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

/** Undefined where there is nothing. Errors: EACCES, ENOENT (a part of the path is no folder) and the like. */
export function statOf(path: string): Stats | undefined {
  return asking({ device: path, op: "open" }, () => statSync(path, { throwIfNoEntry: false }));
}

async function bytesOf(reference: string, environment: Environment): Promise<number> {
  if (schemeOf(reference) === undefined) {
    // Without opening it: the table that is being exchanged may still have it locked.
    const found = statOf(reference);
    if (found?.isFile() === true) return found.size;
  }
  // Only how large it is: whoever uses it need not be asked.
  const opened = await openReference(reference, "read", environment, "looks");
  try {
    return opened.size;
  } finally {
    await opened.close();
  }
}
