/** What all verbs that talk to a running server have in common: its socket, Ctrl-C, and what is printed. */
import { printable, printableJson, printableLines } from "@dmkit/block-io";
import { type Command, Option } from "commander";
import { type CallProgress, ControlClient } from "../../control/client.ts";
import { Cancelled } from "../../control/protocol.ts";
import { findSocket } from "../../control/sockets.ts";
import { endedBySignal } from "../../ui/interrupt.ts";
import { exitCodes } from "../../ui/terminal.ts";

export interface ControlFlags {
  readonly control?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** Exit code of a command ended by Ctrl-C, as shells have it. */
const INTERRUPTED = 130;

/** A subcommand with the options every verb has. */
export function verb(parent: Command, name: string, summary: string): Command {
  return parent
    .command(name)
    .summary(summary)
    .description(`${summary[0]?.toUpperCase() ?? ""}${summary.slice(1)}.`)
    .addOption(
      new Option(
        "-C, --control <path|pid>",
        "control socket, or process id, of the server (default: $DMKIT_CONTROL, or the only server that runs)",
      ),
    )
    .option("--json", "print JSON", false)
    .option("-q, --quiet", "print nothing but what was asked for", false);
}

/** A connection for the time of one command; Ctrl-C cancels what the server is doing for it. */
export async function withServer(
  flags: ControlFlags,
  work: (server: ServerCalls) => Promise<void>,
): Promise<number> {
  const client = await ControlClient.connect(await findSocket(flags.control));
  let failure: unknown;
  try {
    let isLate = false;
    const done = await endedBySignal("the server", async (signal) => {
      const server: ServerCalls = {
        folder: client.hello.folder,
        call: (method, params = {}, progress) => client.call(method, params, { progress, signal }),
      };
      await work(server).catch((error: unknown) => {
        failure = error;
        throw error;
      });
      isLate = signal.aborted;
    });
    if (isLate) process.stderr.write("dmkit: it was too late to cancel: all was carried out\n");
    if (done !== "cancelled") return exitCodes.ok;
    // It may have failed before it heard of the cancellation.
    if (!(failure instanceof Cancelled)) throw failure;
    process.stderr.write(`dmkit: ${printable(failure.message)}\n`);
    return INTERRUPTED;
  } finally {
    client.close();
  }
}

export interface ServerCalls {
  /** The server's working folder. */
  readonly folder: string;
  readonly call: <Result>(
    method: string,
    params?: Readonly<Record<string, unknown>>,
    progress?: (progress: CallProgress) => void,
  ) => Promise<Result>;
}

export function print(text: string): void {
  if (text !== "") process.stdout.write(printableLines(text.endsWith("\n") ? text : `${text}\n`));
}

export function printJson(value: unknown): void {
  print(printableJson(value, 2));
}

/** Columns as wide as their widest cell; the last one is left as it is. */
export function columns(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  const clean = rows.map((row) => row.map(printable));
  for (const row of clean) {
    for (const [index, cell] of row.entries()) widths[index] = Math.max(widths[index] ?? 0, cell.length);
  }
  return clean
    .map((row) =>
      row
        .map((cell, index) => cell.padEnd(widths[index] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
