/** Large temporary files: they have no name any more when they are used, so they go with the process, however that ends. */
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { BlockDevice } from "./contract/device.ts";
import type { Environment } from "./contract/environment.ts";
import { asking } from "./contract/errors.ts";
import { openFile } from "./devices/file-open.ts";

/** Where they are made: `TMPDIR`, or /var/tmp, since the folder for small temporary files often is in memory. */
export function largeFilesFolder(): string {
  return process.env["TMPDIR"] ?? "/var/tmp";
}

/** A sparse file of `size` bytes that nobody else finds. Errors: those of the folder, with what to do. */
export async function openNameless(size: number, environment: Environment): Promise<BlockDevice> {
  const parent = largeFilesFolder();
  const hint = "Set TMPDIR to a folder that can be written to.";
  const folder = asking({ device: parent, op: "open", hint }, () => mkdtempSync(join(parent, "dmkit-")));
  try {
    return await openFile(join(folder, "file"), { createSize: size, environment });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
