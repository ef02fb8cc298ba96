/** Running the offline commands in this process: much quicker than a process for each, where there are hundreds. */
import { Command, CommanderError } from "commander";
import { addCommands } from "../src/commands/all.ts";
import { usageCode } from "../src/ui/terminal.ts";
import type { Result } from "./support.ts";

/** Runs `work` and collects what it prints. */
export async function captured<T>(
  work: () => Promise<T>,
): Promise<{ value: T; stdout: string; stderr: string }> {
  const out = capture(process.stdout);
  const err = capture(process.stderr);
  try {
    const value = await work();
    return { value, stdout: out.text(), stderr: err.text() };
  } finally {
    out.release();
    err.release();
  }
}

/** As `dmkit ARGS…`, without a process: what it prints, and its exit code. */
export async function cli(...args: string[]): Promise<Result> {
  let code = 0;
  const program = new Command("dmkit").exitOverride();
  await addCommands(program, args[0], (result) => (code = result));
  for (const command of program.commands) command.exitOverride();
  const { stdout, stderr } = await captured(async () => {
    try {
      await program.parseAsync(args, { from: "user" });
    } catch (error) {
      if (!(error instanceof CommanderError)) throw error;
      code = error.exitCode === 0 ? 0 : usageCode(args[0]);
    }
  });
  return { code, stdout, stderr };
}

function capture(stream: NodeJS.WriteStream): { release(): void; text(): string } {
  const write = stream.write.bind(stream);
  let text = "";
  stream.write = (chunk: string | Uint8Array): boolean => {
    text += String(chunk);
    return true;
  };
  return {
    release() {
      stream.write = write;
    },
    text: () => text,
  };
}
