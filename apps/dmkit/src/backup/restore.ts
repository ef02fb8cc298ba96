/**
 * A disk from a backup, wherever that is.
 *
 * Invariants: what is on the target and not blank is written over only where that was asked for, or where this very
 * restore was cut short; a target is not taken for a whole disk while it is none; what was written has been compared.
 */
import { closeSync, openSync, readSync, statSync } from "node:fs";
import {
  type BlockDevice,
  SECTOR,
  asking,
  identityOf,
  packedIn,
  parsePath,
  refuse,
  schemeOf,
  shellQuote,
} from "@dmkit/block-io";
import { type CopyResult } from "../copy.ts";
import { requireOther, withDestination } from "../destination.ts";
import { withReading } from "../devices.ts";
import { targets } from "../targets.ts";
import { commandEnvironment } from "../ui/command-environment.ts";
import { startProgress } from "../ui/progress.ts";
import { backUpAll, refuseUnfinished, verify, wasCutShort } from "./backup.ts";
import { reading } from "./kept.ts";

/** Bytes in which a dump has begun. */
const HEAD = 4096;

/**
 * Whether a source of `dmkit restore` is to be read as a dump: JSON, or nothing that whole sectors could be. A disk does
 * not begin with a brace; and JSON put onto a disk would be worse than a disk that is refused.
 */
export function isDump(reference: string): boolean {
  if (schemeOf(reference) !== undefined) return false;
  const { path } = parsePath(reference);
  const found = statSync(path, { throwIfNoEntry: false });
  // What is not there, and a pipe or a folder, is for who reads dumps to tell.
  if (found === undefined || !(found.isFile() || found.isBlockDevice())) return true;
  if (found.isFile() && (found.size === 0 || found.size % SECTOR > 0)) return true;
  return asking({ device: path, op: "open" }, () => {
    const fd = openSync(path, "r");
    try {
      const head = Buffer.alloc(HEAD);
      const length = readSync(fd, head, 0, head.length, 0);
      return head.toString("latin1", 0, length).trimStart().startsWith("{");
    } finally {
      closeSync(fd);
    }
  });
}

/** Throws `EINVAL` for what is no disk but an archive, say, unless its path says that its bytes are meant. */
async function refusePacked(from: string, source: BlockDevice): Promise<void> {
  const isPath = schemeOf(from) === undefined;
  if (isPath && parsePath(from).raw) return;
  const name = await packedIn(source);
  if (name === undefined) return;
  const raw = isPath
    ? `: ${shellQuote(`${from}${from.includes("?") ? "&" : "?"}raw`)}`
    : ", copy them: dmkit copy";
  throw refuse(
    from,
    "EINVAL",
    `is ${name}, and no disk: its bytes would be put in the place of one`,
    `Nothing was written. Unpack it first, and restore what was in it; if its bytes are meant${raw}.`,
  );
}

export interface RestoreRequest {
  readonly from: string;
  readonly to: string;
  /** Whatever is on the target may be written over. */
  readonly force: boolean;
  readonly signal: AbortSignal;
  readonly isQuiet: boolean;
}

/**
 * Copies a backup to the start of a target, and compares. Errors: `EFORMAT` for a target that is not blank, `ENOSPC` for one
 * that is too small, `EINVAL` for a backup that was cut short, is empty, or is packed in an archive, `EIO` where the copy
 * differs, those of the devices.
 */
export async function restoreBackup({
  from,
  to,
  force,
  signal,
  isQuiet,
}: RestoreRequest): Promise<CopyResult> {
  requireOther(to, [from]);
  if ((await targets.versionsOf(to)) !== undefined)
    throw refuse(to, "EROFS", "can only be read", "Give a device or a file. Into a store: dmkit backup");
  const note = { restore: identityOf(from) };
  const store = await targets.versionsOf(from);
  const environment = commandEnvironment;
  const write = async (source: BlockDevice): Promise<CopyResult> => {
    if (source.size < SECTOR)
      throw refuse(
        from,
        "EINVAL",
        "is empty: there is nothing to restore",
        "Check whether it is the right one.",
      );
    await refuseUnfinished(source);
    await refusePacked(from, source);
    const overwrite = force || (await wasCutShort(to, note, environment));
    return withDestination(to, { size: source.size, environment, overwrite }, async ({ device, blank }) => {
      const result = await shown("restore", source.size, (progress) =>
        backUpAll(source, device, blank, { signal, progress }, note),
      );
      await shown("compare", source.size, (progress) => verify(source, device, { signal, progress }));
      return result;
    });
  };
  const shown = async <T>(
    label: string,
    total: number,
    work: (progress: (bytes: number) => void) => Promise<T>,
  ): Promise<T> => {
    const progress = startProgress(label, total, isQuiet);
    return work((bytes) => progress.update(bytes)).finally(() => progress.stop());
  };
  return store === undefined
    ? withReading(from, environment, write)
    : reading(store, from, environment, write);
}
