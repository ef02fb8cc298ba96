/** Work that somebody may not want to wait for any more. */

import { Cancelled } from "../../control/protocol.ts";

/** Throws `Cancelled` for what is not wanted any more before it has begun. */
export function refuseIfCancelled(what: string, signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new Cancelled(`${what} was cancelled: nothing has changed`);
}

/** What work comes to; or, as soon as it is not wanted any more, an error. The work goes on, and fails in silence. */
export async function unlessAborted(
  work: Promise<void>,
  signal: AbortSignal | undefined,
  error: () => Error,
): Promise<void> {
  if (signal === undefined) return work;
  let abort = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(error());
    signal.addEventListener("abort", abort);
  });
  try {
    await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
