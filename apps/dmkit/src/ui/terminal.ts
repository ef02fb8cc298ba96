/** What the command line prints of errors, with which exit status, and the decision whether to use colours. */
import { BlockIoError, isSystemError, toBlockIoError, printableLines } from "@dmkit/block-io";
import { end } from "./end.ts";
import { usualFormat } from "./log.ts";

/** Exit codes of all commands but fsck and compare. `usage` is for what cannot be understood, wherever it was written: `EPARSE`. */
export const exitCodes = { ok: 0, error: 1, usage: 2 } as const;

/** Exit codes of fsck; bits that are added. */
export const fsckCodes = {
  clean: 0,
  corrected: 1,
  left: 4,
  operational: 8,
  usage: 16,
  cancelled: 32,
} as const;

/** Exit codes of compare, those of cmp(1). */
export const compareCodes = { equal: 0, differ: 1, trouble: 2 } as const;

/** What help says of them; README has it in full. */
export const exitHelp = `
Exit status: 0 all went well; 1 an error; 2 wrong usage: words, a table, a stack file or a size that cannot be
understood; 130 interrupted. dmkit fsck and compare have their own, see their help; serve --run has that of its command.
`;

/** What a command ends with where it did not come to its result: after wrong usage, and any other error. */
interface FailureCodes {
  readonly usage: number;
  readonly error: number;
}

const ownCodes: ReadonlyMap<string, FailureCodes> = new Map([
  ["fsck", { usage: fsckCodes.usage, error: fsckCodes.operational }],
  ["compare", { usage: compareCodes.trouble, error: compareCodes.trouble }],
]);

/** Those of a command; of none, and most, the usual ones. */
export function failureCodes(command: string | undefined): FailureCodes {
  return ownCodes.get(command ?? "") ?? exitCodes;
}

/** What a command ends with that throws this. */
export function exitCodeOf(error: unknown, command?: string): number {
  const codes = failureCodes(command);
  return error instanceof BlockIoError && error.code === "EPARSE" ? codes.usage : codes.error;
}

/** Colours only on a terminal, and not with NO_COLOR. */
function colour(code: number, text: string): string {
  return process.stderr.isTTY && !process.env["NO_COLOR"] ? `\u001b[${code}m${text}\u001b[0m` : text;
}

/** Prints what went wrong, where, and what to do. The stack only with DMKIT_DEBUG. */
export function printError(thrown: unknown): void {
  // Nobody has said what it was for, but it is the system's word, and no fault in here.
  const error = isSystemError(thrown) ? toBlockIoError(thrown, {}) : thrown;
  // What it tells of may have come from anywhere: its lines are shown as lines of one message.
  const message = shown(error instanceof Error ? error.message : String(error));
  // The journal is told how much it matters.
  const priority = usualFormat() === "journal" ? "<3>" : "";
  process.stderr.write(`${priority}${colour(31, "dmkit:")} ${message}\n`);
  if (error instanceof BlockIoError && error.hint !== undefined)
    process.stderr.write(`  ${shown(error.hint)}\n`);
  if (process.env["DMKIT_DEBUG"] && error instanceof Error) {
    process.stderr.write(`${printableLines(error.stack ?? "")}\n`);
    if (error.cause !== undefined) printError(error.cause);
  } else if (!(error instanceof BlockIoError)) {
    process.stderr.write("  This is a fault in dmkit. Run again with DMKIT_DEBUG=1 for details.\n");
  }
}

/** A warning, and a line for each of the facts that go with it. */
export function printWarning(message: string, facts: Readonly<Record<string, unknown>> = {}): void {
  const lines = Object.entries(facts).map(([name, fact]) => `\n${name}: ${String(fact)}`);
  process.stderr.write(`${colour(33, "dmkit:")} warning: ${shown([message, ...lines].join(""))}\n`);
}

function shown(text: string): string {
  return printableLines(text).replaceAll("\n", "\n  ");
}

/** Prints errors that nobody waits for; there should be none. */
export function reportStrays(): void {
  process.on("unhandledRejection", (error) => {
    printError(error);
    end(exitCodes.error);
  });
}
