/** Work on many items, a bounded number at a time. */

/** Runs `work` on all items, at most `width` at a time; waits for all that were begun before it throws. */
export async function inParallel<T>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const lane = async (): Promise<void> => {
    while (next < items.length && !failed) {
      const item = items[next] as T;
      next += 1;
      try {
        await work(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const lanes = Array.from({ length: Math.min(width, items.length) }, lane);
  for (const result of await Promise.allSettled(lanes)) if (result.status === "rejected") throw result.reason;
}
