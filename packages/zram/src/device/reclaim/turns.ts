/** Going over all pages while others use them. */
import { type LongWork, nextTurn } from "@dmkit/block-io";
import type { RunningDisk } from "../disk.ts";

// Pages after which others get a turn: a few milliseconds.
const TURN = 64;

/** Whether it is time for {@link letOthers} before this page. */
export function isTurn(page: number): boolean {
  return page % TURN === TURN - 1;
}

/** Others have a turn, who waits is told, and who does not want to wait any more ends it. Rejects with the signal's reason. */
export async function letOthers(
  { parts }: RunningDisk,
  done: number,
  { signal, progress }: LongWork,
): Promise<void> {
  progress?.({ done, total: parts.pages.table.pages, unit: "pages" });
  await nextTurn(parts.environment.scheduler);
  signal?.throwIfAborted();
}
