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

/** The known word that `word` is most like, if it is like one at all. */
export function closest(word: string, known: Iterable<string>): string | undefined {
  let best: string | undefined;
  // A third of the letters may differ; case, hyphens and underscores never count.
  let least = Math.max(1, Math.floor(word.length / 3)) + 1;
  const plain = simplify(word);
  for (const candidate of known) {
    const distance = editDistance(plain, simplify(candidate), least);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

function simplify(word: string): string {
  return word.toLowerCase().replaceAll("_", "-");
}

/** Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`; `limit` if it takes more. */
function editDistance(a: string, b: string, limit: number): number {
  if (a === b) return 0;
  // Words of any length may come from outside; only short ones can be alike by a few letters.
  if (Math.abs(a.length - b.length) >= limit || a.length > 64) return limit;
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = at(last, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      let distance = Math.min(at(last, j) + 1, at(row, j - 1) + 1, replaced);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) distance = Math.min(distance, at(before, j - 2) + 1);
      row.push(distance);
    }
    before = last;
    last = row;
  }
  return at(last, b.length);
}

function at(row: readonly number[], index: number): number {
  return row[index] ?? Number.POSITIVE_INFINITY;
}
