/** What a target's options are, in words: for `dmkit targets` and the manual. */
import { type AnyTarget, defaultOf, describeRange } from "@dmkit/block-io";
import type { Term } from "./roff.ts";

/** Each option with its range, its default, and whether it can be set while the target runs. */
export function optionTerms({ options, tunables }: AnyTarget): Term[] {
  return Object.entries(options).map(([option, spec]) => {
    const fallback = defaultOf(spec) === undefined ? "" : `, default ${String(defaultOf(spec))}`;
    const online = tunables?.names.includes(option) ? "; by message as well" : "";
    return { term: option, meaning: `${spec.help} (${describeRange(spec)}${fallback}${online})` };
  });
}

/** What the length of a line may be. */
export function lengthTerm({ stack }: AnyTarget): string {
  return stack?.length === undefined
    ? "The length is a number of sectors."
    : "The length is a number of sectors, or in the last line of a table *: what is left of what lies below.";
}

/** Each message with its arguments. */
export function messageTerms({ messages = {} }: AnyTarget): Term[] {
  return Object.entries(messages).map(([message, { arguments: args, help }]) => ({
    term: `${message} ${args}`.trimEnd(),
    meaning: help,
  }));
}
