/** With what the pages of a snapshot are read: never with another algorithm, or dictionary, than they were written with. */
import type { BlockDevice } from "@dmkit/block-io";
import { type Algorithms, type Form, readerOf } from "../algorithms.ts";
import { mismatch } from "./place.ts";

/** Throws `EINVAL` unless the disk's first algorithm is that of the snapshot. */
export function requireForm(source: BlockDevice, form: Form, disk: Form): void {
  if (form.name !== disk.name)
    throw mismatch(
      source,
      `the snapshot is compressed with ${form.name}`,
      `Open it with that algorithm: ${form.name}`,
    );
}

/** The priority of the algorithm that reads pages of priority `priority` of a snapshot. Throws `EINVAL` if there is none. */
export function readingPriority(
  source: BlockDevice,
  forms: readonly Form[],
  priority: number,
  algorithms: Algorithms,
): number {
  const form = forms[priority] as Form;
  const same = algorithms[priority];
  if (same !== undefined && readerOf([same], form) === 0) return priority;
  const found = readerOf(algorithms, form);
  if (found >= 0) return found;
  const which = priority === 1 ? "as second algorithm" : `as the algorithm of priority ${priority}`;
  throw mismatch(
    source,
    `pages of the snapshot are compressed with ${form.name} ${which}`,
    `Open it with: recomp_algorithm${priority === 1 ? "" : priority} ${form.name}`,
  );
}
