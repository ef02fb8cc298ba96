/** Waiting with a limit. */
import type { Clock } from "@dmkit/block-io";

/** Whether `work` is over within `milliseconds`; its failure is thrown while it is waited for, and ignored later. */
export async function endsWithin(
  clock: Clock,
  milliseconds: number,
  work: Promise<unknown>,
): Promise<boolean> {
  let expire!: () => void;
  const expiry = new Promise<boolean>((resolve) => {
    expire = () => resolve(false);
  });
  const timer = clock.after(milliseconds, expire);
  try {
    return await Promise.race([work.then(() => true), expiry]);
  } finally {
    timer.cancel();
  }
}
