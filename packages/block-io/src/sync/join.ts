/**
 * Several things under way at once. Everything here waits for all that was begun, even when one of them fails: nothing
 * may still use a buffer, or write, after the one who asked was told that it is over.
 */
import { worstOf } from "../contract/errors.ts";

/** Waits for all; then throws the worst of what failed: see {@link worstOf}. */
export async function join(running: readonly Promise<unknown>[]): Promise<void> {
  const [only, second] = running;
  if (second === undefined) {
    await only;
    return;
  }
  const failed = worstOf(await Promise.allSettled(running));
  if (failed !== undefined) throw failed.error;
}

/** How much of what {@link inOrder} does may be under way. */
export interface Ahead<T> {
  /** Of all that is under way, at the most; one item is in any case. */
  readonly most: number;
  /** What an item counts for; 1 unless given. */
  readonly weightOf?: (item: T) => number;
}

/**
 * What `work` makes of the items, in their order, each begun before it is its turn. A failure is thrown when it is the turn
 * of its item; then, or when no more is wanted, what was begun is waited for.
 */
export async function* inOrder<T, R>(
  items: Iterable<T> | AsyncIterable<T>,
  { most, weightOf = () => 1 }: Ahead<T>,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const begun: { readonly weight: number; readonly result: Promise<R> }[] = [];
  let weight = 0;
  const isFull = (own: number): boolean => begun.length > 0 && weight + own > most;
  const next = (): Promise<R> => {
    const first = begun.shift() as (typeof begun)[number];
    weight -= first.weight;
    return first.result;
  };
  try {
    for await (const item of items) {
      const own = weightOf(item);
      while (isFull(own)) yield await next();
      const result = work(item);
      // Whoever waits for it is told.
      result.catch(() => {});
      begun.push({ weight: own, result });
      weight += own;
    }
    while (begun.length > 0) yield await next();
  } finally {
    await Promise.allSettled(begun.map(({ result }) => result));
  }
}

/**
 * Carries out `work` for all items, at most `width` (1 or more; a function where that changes) at a time, in their order.
 * After a failure nothing new is begun, and what was begun is waited for; then the worst failure is thrown. Items may come
 * while it goes on; where their source fails, that counts as a failure.
 */
export async function inParallel<T>(
  items: Iterable<T> | AsyncIterable<T>,
  width: number | (() => number),
  work: (item: T) => Promise<void>,
): Promise<void> {
  const most = typeof width === "number" ? (): number => width : width;
  const running = new Set<Promise<void>>();
  // One promise for each wait: a race of all that runs makes two for each of them, every time.
  let wake = (): void => {};
  const failures: PromiseRejectedResult[] = [];
  const failed = (reason: unknown): void => {
    failures.push({ status: "rejected", reason });
  };
  try {
    for await (const item of items) {
      const task: Promise<void> = work(item)
        .catch(failed)
        .then(() => {
          running.delete(task);
          wake();
        });
      running.add(task);
      while (running.size >= most()) await new Promise<void>((resolve) => (wake = resolve));
      if (failures.length > 0) break;
    }
  } catch (error) {
    failed(error);
  }
  await Promise.all(running);
  const worst = worstOf(failures);
  if (worst !== undefined) throw worst.error;
}
