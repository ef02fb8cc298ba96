/**
 * The decisions on which it depends whether anything is lost: one value, handed down to those who decide. A test that
 * puts a fault in hands down another one.
 */
import { type Position, isBefore } from "../format/keys.ts";
import { FENCE_SIZE } from "../format/records.ts";

export interface Rules {
  /** Whether a walk that began at checkpoint `start` saw all there was, given that `newest` is there at its end. */
  readonly sawAll: (start: Position, newest: Position) => boolean;
  /** Whether an object of the log, of `size` bytes, may be removed, given that all up to `needed` is not needed. */
  readonly mayRemove: (position: Position, size: number, needed: Position) => boolean;
}

/** Whether an object of the log is a fence, by its size in a listing. */
export function isFence(size: number): boolean {
  return size <= FENCE_SIZE;
}

/** Those that hold. */
export const rules: Rules = Object.freeze({
  sawAll: (start: Position, newest: Position) => !isBefore(start, newest),
  mayRemove: (position: Position, size: number, needed: Position) =>
    !isFence(size) && !isBefore(needed, position),
});
