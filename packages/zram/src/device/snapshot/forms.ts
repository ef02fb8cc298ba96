/** With what the pages of a snapshot are read: never with another algorithm, or dictionary, than they were written with. */
import type { BlockDevice } from "@dmkit/block-io";
import { type Algorithms, type Form, readerOf } from "../algorithms.ts";
import { mismatch } from "./place.ts";

/**
 * The priority of the algorithm that reads pages of priority `priority` of a snapshot. Throws `EINVAL` if there is none, and
 * says what to give.
 */
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
  const number = priority < 2 ? "" : priority;
  const [algorithm, dictionary] =
    priority === 0 ? ["comp_algorithm", "comp_dict"] : [`recomp_algorithm${number}`, `recomp_dict${number}`];
  const others = "or as one of the other algorithms";
  const { name } = form;
  if (form.dictionary !== undefined) {
    const hash = form.dictionary.toString("hex");
    throw mismatch(
      source,
      `pages of the snapshot are compressed by ${name} with a dictionary whose SHA-256 is ${hash}`,
      `Open it with ${algorithm} ${name} and ${dictionary} FILE, of which sha256sum prints that, ${others}.`,
    );
  }
  if (algorithms.some((one) => one?.name === name))
    throw mismatch(
      source,
      `pages of the snapshot are compressed by ${name} without a dictionary`,
      `Open it with ${algorithm} ${name} and without ${dictionary}; ${others}.`,
    );
  throw mismatch(
    source,
    `pages of the snapshot are compressed with ${name}`,
    `Open it with: ${algorithm} ${name}; ${others}`,
  );
}
