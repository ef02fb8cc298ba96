/** What can be wrong with a stack file: one line a problem, `file:line:column: what; allowed; did you mean …`. */
import { BlockIoError } from "@dmkit/block-io";

export interface StackProblem {
  /** As the reader was given it. */
  readonly file: string;
  /** From 1. */
  readonly line: number;
  /** From 1, in UTF-16 units. */
  readonly column: number;
  readonly what: string;
  /** What is allowed there, or what to do. */
  readonly allowed?: string | undefined;
  /** The word that was probably meant. */
  readonly meant?: string | undefined;
}

/** The line a person reads. */
export function describeProblem({ file, line, column, what, allowed, meant }: StackProblem): string {
  const parts = [what, allowed, meant === undefined ? undefined : `did you mean "${meant}"?`];
  return `${file}:${line}:${column}: ${parts.filter((part) => part !== undefined).join("; ")}`;
}

/** A stack file that cannot be used, with all that is wrong with it. Its text is one line a problem. */
export class StackFileError extends BlockIoError {
  readonly problems: readonly StackProblem[];

  /** @param problems at least one. */
  constructor(problems: readonly StackProblem[]) {
    super(problems.map(describeProblem).join("\n"), { code: "EPARSE" });
    this.problems = problems;
  }
}

/** A sentence as a part of a line: `Give a size.` is `give a size`. */
export function asClause(sentence: string): string {
  const text = sentence.trim().replace(/\.$/, "");
  return /^[A-Z][a-z]/.test(text) ? text.charAt(0).toLowerCase() + text.slice(1) : text;
}

/** For messages: what was found, on one short line. */
export function show(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object" && value !== null) return "a mapping";
  if (value === null || value === undefined) return "nothing";
  const text = JSON.stringify(value) ?? typeof value;
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}
