/** What is written when a cache is closed in order, once nothing runs any more. */
import type { Environment } from "@dmkit/block-io";
import { costsNothing } from "./refusals.ts";
import type { PlogWriter } from "./log/plog-writer.ts";
import type { LogTrouble } from "./log/trouble.ts";
import type { Parts } from "./parts.ts";
import type { Recorder } from "./recorder.ts";
import type { Writeback } from "./writeback/writeback.ts";

/** Throws what the devices throw, but for what costs nothing: that is told. */
export async function closeInOrder(
  { log, plog, backing }: Parts,
  recorder: Recorder,
  { doubts, bad }: Writeback,
  { logger }: Pick<Environment, "logger">,
  trouble: LogTrouble,
): Promise<void> {
  // The guard has flushed; what was staged since then is not worth a segment. With a plog that left the newest
  // segments in the plog alone, the open one and perhaps one that is on its way: whoever opens the cache without
  // it, as one may after a clean close, would lose them.
  if (plog !== undefined) {
    log.close();
    await log.makeDurable(log.newestClosed);
    await clearPlog(plog, trouble);
  }
  // The guard has told whoever closes: what found no space is lost now.
  if (log.lastFlushed < log.newestClosed) return;
  try {
    await recorder.record();
    // After a flush that failed, what the backing device shows need not be what it keeps; nor where it is bad.
    if (doubts === 0 && bad.size === 0) await recorder.markClean(backing, logger);
  } catch (error) {
    if (!costsNothing(error)) throw error;
    trouble.tell("warn", "no space to note that the cache was closed in order; nothing is lost", error);
  }
}

/** Everything is on the cache device: a plog that cannot be written any more is no loss. */
async function clearPlog(plog: PlogWriter, trouble: LogTrouble): Promise<void> {
  try {
    await plog.clear();
  } catch (error) {
    trouble.tell("warn", "the plog could not be zeroed; the cache is closed in order", error);
  }
}
