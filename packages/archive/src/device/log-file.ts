/**
 * What the log has of a disk, fetched: a file on this machine with each sector at its own place, and holes between them.
 *
 * A log object has what was written at one time, all over the disk. Whoever goes through the disk in order would need
 * each of them again and again; here each is fetched once, in the order of the log. The file has no name any more when it
 * is used, so it goes with the process, however that ends.
 */
import {
  type BlockDevice,
  type Environment,
  codeOf,
  largeFilesFolder,
  openNameless,
  refuse,
} from "@dmkit/block-io";
import { LogIndex } from "../core/log-index.ts";
import type { Archive } from "./archive.ts";
import type { History, When } from "./history.ts";
import { type ReplayOptions, replaying } from "./replay.ts";

/** The log of a history, up to a moment. */
export interface LogFile {
  /** As large as the disk; what {@link index} does not name means nothing. */
  readonly file: BlockDevice;
  readonly index: LogIndex;
  /** Of the last segment in it. */
  readonly id: number;
}

/** Fetches the log up to a moment. Errors: those of {@link replaying}; `ENOSPC` and others of the file. */
export async function fetchLog(
  archive: Archive,
  history: History,
  when: When,
  environment: Environment,
  options: ReplayOptions,
): Promise<LogFile> {
  const { size } = await archive.record();
  const file = await openNameless(size, environment);
  const index = new LogIndex();
  let { id } = history.checkpoint;
  try {
    for await (const segment of replaying(archive, history, file, when, options)) {
      ({ id } = segment);
      for (const [block, sector] of segment.sectors.entries())
        index.add(sector / 8, segment.bits[block] as number);
    }
    return { file, index, id };
  } catch (error) {
    await file.close();
    if (codeOf(error) !== "ENOSPC") throw error;
    const bytes = history.objects.reduce((sum, one) => sum + one.size, 0);
    throw refuse(
      archive.name,
      "ENOSPC",
      `${largeFilesFolder()} has no room for the log behind the checkpoint, ${bytes} bytes and more`,
      "Set TMPDIR to a folder on a disk with more room; after dmkit archive checkpoint there is less to fetch.",
    );
  }
}
