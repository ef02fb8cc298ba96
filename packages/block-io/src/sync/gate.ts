/** Something requests wait at while a device holds them back. */
import type { BlockIoError } from "../contract/errors.ts";

/** What held requests wait for: opened by resume, refused by close. */
export interface Gate {
  readonly promise: Promise<void>;
  readonly open: () => void;
  readonly refuse: (error: BlockIoError) => void;
}

/** A closed gate; who waits at it is let through by `open`, or turned away by `refuse`. */
export function makeGate(): Gate {
  let open!: () => void;
  let refuse!: (error: BlockIoError) => void;
  const promise = new Promise<void>((resolve, reject) => {
    open = resolve;
    refuse = reject;
  });
  // Nobody may be waiting.
  promise.catch(() => {});
  return { promise, open, refuse };
}
