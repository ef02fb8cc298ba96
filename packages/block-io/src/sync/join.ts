/**
 * Several things under way at once. Everything here waits for all that was begun, even when one of them fails: nothing
 * may still use a buffer, or write, after the one who asked was told that it is over.
 */
import { worstOf } from "../contract/errors.ts";

/** Waits for all; then throws what failed, an error that cost data before one that did not. */
export async function join(running: readonly Promise<unknown>[]): Promise<void> {
  const [only, second] = running;
  if (second === undefined) {
    await only;
    return;
  }
  const failed = worstOf(await Promise.allSettled(running));
  if (failed !== undefined) throw failed.error;
}

/**
 * Carries out `work` for all items, at most `width` (1 or more) at a time, in their order. After a failure nothing new is
 * begun, and what was begun is waited for; then that failure is thrown. Items may come while it goes on; where their
 * source fails, that counts as a failure.
 */
export async function inParallel<T>(
  items: Iterable<T> | AsyncIterable<T>,
  width: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const running = new Set<Promise<void>>();
  let failure: { readonly error: unknown } | undefined;
  try {
    for await (const item of items) {
      const task = work(item)
        .catch((error: unknown) => {
          failure ??= { error };
        })
        .finally(() => running.delete(task));
      running.add(task);
      if (running.size >= width) await Promise.race(running);
      if (failure !== undefined) break;
    }
  } catch (error) {
    failure ??= { error };
  }
  await Promise.all(running);
  if (failure !== undefined) throw failure.error;
}
