/** The end of the process before its work is over: what must not stay behind goes first. */
import { endProcess } from "@dmkit/block-io";

const cleanups = new Set<() => void>();

/** Runs `work`, which cannot wait, if the process ends by {@link end}. The result takes it back. */
export function beforeEnd(work: () => void): () => void {
  cleanups.add(work);
  return () => void cleanups.delete(work);
}

/** What {@link beforeEnd} has collected; each is tried, whatever becomes of the others. */
export function cleanUp(): void {
  for (const work of cleanups) {
    cleanups.delete(work);
    try {
      work();
    } catch {
      // There is nobody left to do anything about it.
    }
  }
}

/** Ends the process at once. */
export function end(code: number): never {
  cleanUp();
  endProcess(code);
}
